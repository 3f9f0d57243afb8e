// Where the milliseconds of a start went: named moments on CLOCK_MONOTONIC, told to whoever asked.
#pragma once

#include <cstdint>
#include <string_view>

namespace mayfly::base::timeline {

// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t now_ns();

// From now on each mark is written to `fd` as one line, "PHASE NANOSECONDS\n". Until then marks cost a clock
// reading and go nowhere. The fd is a pipe whose reader may be gone; marks never wait.
void send_to(int fd);

// Any thread.
void mark(std::string_view phase);

}  // namespace mayfly::base::timeline
