// Making a jail and becoming the VMM in it: a straight line, each step with an error of its own.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "jailer/options.h"

namespace mayfly::jailer {

// When the jailer began, for the VMM's own account of its start.
struct StartTimes {
  std::uint64_t wall_us = 0;  // CLOCK_MONOTONIC
  std::uint64_t cpu_us = 0;   // CLOCK_PROCESS_CPUTIME_ID
};
StartTimes times_now();

// Comes back in two cases: with the error, when the jail could not be made and nothing of it is left; and
// where the VMM is a child (--new-pid-ns, or --daemonize by the leader of a process group) once that is the
// VMM.
base::Status make_jail(const Options& options, const StartTimes& start);

}  // namespace mayfly::jailer
