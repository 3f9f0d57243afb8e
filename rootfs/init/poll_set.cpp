#include "rootfs/init/poll_set.h"

#include <time.h>

#include <algorithm>

namespace mayfly::init {

std::uint64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kSecond + static_cast<std::uint64_t>(now.tv_nsec);
}

void PollSet::clear() {
  count_ = 0;
  deadline_ = kNever;
}

std::size_t PollSet::add(int fd, short events) {
  if (count_ == kMost) return kNoSlot;
  entries_[count_] = {.fd = fd, .events = events, .revents = 0};
  return count_++;
}

void PollSet::wake_by(std::uint64_t deadline_ns) {
  deadline_ = std::min(deadline_, deadline_ns);
}

void PollSet::wait() {
  int timeout = -1;
  if (deadline_ != kNever) {
    const std::uint64_t now = now_ns();
    // Rounded up, so as not to wake just before the deadline again and again.
    const std::uint64_t left = deadline_ > now ? (deadline_ - now) / kMillisecond + 1 : 0;
    timeout = static_cast<int>(std::min<std::uint64_t>(left, 1'000'000));
  }
  if (::poll(entries_.data(), count_, timeout) < 0) {
    for (std::size_t i = 0; i < count_; ++i) entries_[i].revents = 0;
  }
}

}  // namespace mayfly::init
