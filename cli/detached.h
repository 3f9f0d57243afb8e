// `mayfly run --detach`: a machine that mayfly keeps in the background.
#pragma once

#include <chrono>

#include "base/result.h"
#include "cli/options.h"
#include "cli/virtual_machine.h"

namespace mayfly::cli {

// What `mayfly stop` gives a command without --timeout.
inline constexpr std::chrono::seconds kDefaultStopGrace{10};

// Forks, twice with the keeper: call it on the only thread there is. The child keeps the machine until it
// ends and does not return. The parent returns once the command has started, or without one once the guest is
// up, with 0 and the machine's name printed; or with 126 or 127 when the guest cannot start the command; or
// with the error that ended the machine before. A parent that ends earlier takes the machine with it.
base::Result<int> run_detached(const RunOptions& options, const RunFiles& files);

}  // namespace mayfly::cli
