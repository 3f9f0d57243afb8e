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
  std::string kernel;
  std::string rootfs;
};

// $MAYFLY_ARTIFACTS alone where that is set; else the build tree's artifacts/, as seen from
// `executable_folder`, then <prefix>/share/mayfly and /usr/share/mayfly.
std::vector<std::string> artifact_folders(const std::string& executable_folder);

// What the options name, or else the artifacts: with one CPU the kernel that knows only one, where there is
// one. Every file exists when this returns; errors name the path that was looked for, and the remedy.
base::Result<RunFiles> find_files(const RunOptions& options, const std::string& executable_folder);

// What is there of a run with default options; empty where there is nothing.
RunFiles locate_files(const std::string& executable_folder);

// The guest kernel's command line.
std::string boot_arguments(const RunOptions& options);

// The configuration file, as mayfly-vmm takes it. Fails on a path that JSON cannot hold.
base::Result<std::string> vmm_configuration(const RunOptions& options, const RunFiles& files,
                                            const std::string& vsock_path);

}  // namespace mayfly::cli
