// Landlock (landlock(7)): rules of the kernel's on top of users and modes, which even root could not change.
#pragma once

#include <vector>

#include "base/result.h"

namespace mayfly::jailer {

// The version of Landlock that the kernel has; 0: none, or switched off.
int landlock_abi();

struct LandlockRules {
  int executable = -1;       // may be executed, by this process and what it becomes; -1: no file may
  std::vector<int> removal;  // folders outside of the jail in which the jailer may clear away
};

// From now on, and for whatever this process becomes: in its root, files may be read, written, made and
// removed, and devices used that are there; nothing outside of it can be opened, nothing but `executable`
// executed, nothing mounted, no node made, no TCP port used, and, as far as the kernel knows how (`abi`, at
// least 1), no abstract socket and no process reached that is not in the jail. Needs no_new_privs.
base::Status restrict_by_landlock(int abi, const LandlockRules& rules);

}  // namespace mayfly::jailer
