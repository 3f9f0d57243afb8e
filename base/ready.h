// Whether a file descriptor can be read or written now, or soon.
#pragma once

#include <chrono>

namespace mayfly::base {

// Waits for any of `events` (POLLIN, POLLOUT) for `limit` at most; interrupted, it is as if the time was up.
// An error or a hang-up of the other end counts as ready. By ppoll(2), which a stopped and continued process
// makes anew: poll(2) would go on as restart_syscall(2), one more for the system call filters to allow.
bool ready(int fd, short events, std::chrono::milliseconds limit = std::chrono::milliseconds(0));

}  // namespace mayfly::base
