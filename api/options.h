// The command line of mayfly-vmm.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "mmds/store.h"

namespace mayfly::api {

struct Options {
  std::string api_socket;  // empty: none is served
  std::string config_file;
  std::string metadata_file;
  std::string id = "anonymous-instance";
  std::string kvm_path = "/dev/kvm";
  std::string log_path;
  std::string level;
  std::string module;
  std::string metrics_path;
  std::size_t largest_body = mmds::kDefaultSizeLimit;
  std::optional<std::size_t> metadata_size_limit;  // absent: largest_body
  std::optional<std::uint64_t> start_time_us;      // on CLOCK_MONOTONIC
  std::optional<std::uint64_t> start_time_cpu_us;  // on CLOCK_PROCESS_CPUTIME_ID
  std::uint64_t parent_cpu_time_us = 0;
  bool show_level = false;
  bool show_log_origin = false;
  bool no_api = false;
  bool boot_timer = false;
  bool no_seccomp = false;
  std::string seccomp_filter;
  int notify_fd = -1;
  int timing_fd = -1;
};

// The exit status to leave with at once (--help, --version, a command line that is wrong: said on stderr), or
// nothing to go on.
std::optional<int> parse_command_line(int argc, char** argv, Options& options);

}  // namespace mayfly::api
