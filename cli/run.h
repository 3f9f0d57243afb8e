// `mayfly run`: one command in one virtual machine.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "cli/options.h"
#include "cli/virtual_machine.h"

namespace mayfly::cli {

inline constexpr int kExitTimeout = 124;
inline constexpr int kExitMayflyFailed = 125;

// Runs the command of `options` from `files` with our standard streams; `start_ns`: when mayfly began
// (CLOCK_MONOTONIC). The exit status for the process; errors are for standard error and kExitMayflyFailed.
// When it returns nothing is left: no process, no file, and the terminal is as it was. Call it on the only
// thread there is.
base::Result<int> run_in_vm(const RunOptions& options, const RunFiles& files, std::uint64_t start_ns);

}  // namespace mayfly::cli
