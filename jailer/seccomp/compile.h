// From policies to programs, by libseccomp: what mayfly-filter does. No part of mayfly-vmm.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "jailer/seccomp/filter_file.h"
#include "jailer/seccomp/policy.h"

namespace mayfly::jailer::seccomp {

// What becomes of a call that no rule allows. A call of another architecture (32 bits, x32) always kills.
enum class Otherwise : std::uint8_t {
  kTrap,  // SIGSYS, whose handler says which call it was, and ends the process
  kKill,  // the kernel ends the process, without a word of ours
  kLog,   // it is done, and noted in the kernel's log: to find out what a policy lacks
};

// Calls that come first in the policy are looked at first.
base::Result<Program> compile(const Policy& policy, Otherwise otherwise);

// One of each thread, in any order.
base::Result<Programs> compile_all(std::span<const Policy> policies, Otherwise otherwise);

}  // namespace mayfly::jailer::seccomp
