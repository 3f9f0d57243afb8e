// A virtual machine's unexpected end, in words.
#pragma once

#include <string>

#include "cli/options.h"
#include "cli/vmm_process.h"

namespace mayfly::cli {

// What mayfly-vmm's exit statuses mean to whoever ran a command. `errors`: what it wrote to standard error;
// `console`: the end of the guest's console, empty when the user has seen it; `booted`: init was reached.
std::string describe_end(const VmmEnd& end, const RunOptions& options, bool booted, const std::string& errors,
                         const std::string& console);

// The same for a guest that is not up after the time it had.
std::string describe_boot_timeout(const RunOptions& options, const std::string& console);

}  // namespace mayfly::cli
