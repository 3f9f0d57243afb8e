#include "base/ready.h"

#include <poll.h>

#include <ctime>

namespace mayfly::base {

bool ready(int fd, short events, std::chrono::milliseconds limit) {
  constexpr int kThousand = 1000;
  const timespec time{.tv_sec = limit.count() / kThousand, .tv_nsec = limit.count() % kThousand * 1'000'000};
  pollfd poll{.fd = fd, .events = events, .revents = 0};
  return ::ppoll(&poll, 1, &time, nullptr) > 0;
}

}  // namespace mayfly::base
