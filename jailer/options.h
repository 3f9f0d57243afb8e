// The command line of mayfly-jailer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "jailer/checks.h"

namespace mayfly::jailer {

struct Options {
  std::string cleanup_id;  // not empty: remove this jail, and make none
  std::string id;
  std::string exec_file;
  std::string exec_name;  // exec_file's last component; with --cleanup, empty means any
  std::string base = "/srv/jailer";
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string netns;  // empty: the caller's
  std::string parent_cgroup;
  std::optional<int> cgroup_version;  // absent: whichever the host has
  std::vector<CgroupSetting> cgroups;
  std::vector<ResourceLimit> limits;
  std::vector<int> pass_fds;         // ascending
  std::optional<int> oom_score_adj;  // absent: the caller's, but not below 0
  bool daemonize = false;
  bool new_pid_ns = false;
  bool userns = false;
  bool no_landlock = false;
  std::vector<std::string> vmm_arguments;  // what stood after "--"

  [[nodiscard]] bool has_cgroup() const { return !cgroups.empty() || !parent_cgroup.empty(); }
};

// --help or --version: what to say on stdout.
struct Answer {
  std::string text;
};

// A command line that cannot be followed is an error of one line.
base::Result<std::optional<Answer>> parse_command_line(int argc, const char* const* argv, Options& options);

}  // namespace mayfly::jailer
