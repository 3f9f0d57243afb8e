// What time is for the metadata service: callers say what time it is, so that tests can.
#pragma once

#include <chrono>

namespace mayfly::mmds {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

}  // namespace mayfly::mmds
