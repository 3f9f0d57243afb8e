// From the options of a run to what mayfly-vmm is told.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/options.h"

namespace mayfly::cli {

inline constexpr const char* kQuickstart = "scripts/quickstart.sh builds it";

// The files that a run is made of.
struct RunFiles {
  std::string vmm;
  std::string jailer = {};  // empty: no jail around the VMM
  std::string kernel;
  std::string rootfs;
};

// $MAYFLY_ARTIFACTS alone where that is set; else the build tree's artifacts/, as seen from
// `executable_folder`, then <prefix>/share/mayfly and /usr/share/mayfly.
std::vector<std::string> artifact_folders(const std::string& executable_folder);

// What the options name, or else the artifacts: with one CPU the kernel that knows only one, where there is
// one. Every file exists when this returns; errors name the path that was looked for, and the remedy.
base::Result<RunFiles> find_files(const RunOptions& options, const std::string& executable_folder);

// mayfly-jailer, which is beside mayfly or in $PATH.
base::Result<std::string> find_jailer(const std::string& executable_folder);

// What is there of a run with default options; empty where there is nothing.
RunFiles locate_files(const std::string& executable_folder);

// A guest's network: exactly one of `tap` and `socket_path` is not empty.
struct NetworkPlan {
  std::string tap;
  std::string socket_path;
  std::uint16_t mtu = 0;
  Ipv4Network guest;
  Ipv4 gateway;
  std::vector<Ipv4> nameservers;
  std::vector<std::string> search;  // domains
};

// The guest kernel's command line. `network`: null when there is none.
std::string boot_arguments(const RunOptions& options, const NetworkPlan* network);

// The configuration file, as mayfly-vmm takes it. Fails on a path that JSON cannot hold.
base::Result<std::string> vmm_configuration(const RunOptions& options, const RunFiles& files,
                                            const std::string& vsock_path, const NetworkPlan* network);

}  // namespace mayfly::cli
