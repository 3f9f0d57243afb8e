// mayfly-jailer --cleanup: what is left of a jail, taken away.
#pragma once

#include "base/result.h"
#include "jailer/options.h"

namespace mayfly::jailer {

// Removes BASE/NAME/ID (options.cleanup_id; without options.exec_name, of whichever NAME has it) with
// everything in it, and the cgroups that it says are its own. Refuses while a process lives in the jail, and
// goes into nothing that is mounted there. An error too when there is no such jail.
base::Status clean_up(const Options& options);

}  // namespace mayfly::jailer
