// How the machine ends.
#pragma once

namespace mayfly::init {

// Ends every other process (SIGTERM, a moment, SIGKILL), writes everything out, unmounts what is on drives or
// leaves it read-only, and resets the machine.
[[noreturn]] void end_machine();

}  // namespace mayfly::init
