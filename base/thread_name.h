// The calling thread's name, as the log and the kernel (comm in /proc) have it.
#pragma once

#include <string_view>

namespace mayfly::base {

// At most 15 bytes; what is longer is cut.
void set_thread_name(std::string_view name);
// The kernel is asked the first time only, so that a thread which has its system call filter on need not.
std::string_view thread_name();

}  // namespace mayfly::base
