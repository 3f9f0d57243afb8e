// The descriptors that one turn of the agent's loop waits for.
//
// The set is built afresh each turn: everyone who waits says so in watch() and looks at the answer in
// serve(). There are a few dozen descriptors at most in practice, and nothing can be stale.
#pragma once

#include <poll.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly::init {

// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t now_ns();

inline constexpr std::uint64_t kMillisecond = 1'000'000;
inline constexpr std::uint64_t kSecond = 1000 * kMillisecond;
inline constexpr std::uint64_t kNever = UINT64_MAX;

class PollSet {
 public:
  static constexpr std::size_t kMost = 640;
  static constexpr std::size_t kNoSlot = SIZE_MAX;

  void clear();
  // Returns where to ask for the answer. Errors and hang-ups are always reported, whatever `events` is.
  std::size_t add(int fd, short events);
  // The wait ends at this moment at the latest.
  void wake_by(std::uint64_t deadline_ns);
  void wait();
  // What happened; 0 for kNoSlot.
  [[nodiscard]] short seen(std::size_t slot) const {
    return slot < count_ ? entries_[slot].revents : short{0};
  }

 private:
  std::array<pollfd, kMost> entries_;
  std::size_t count_ = 0;
  std::uint64_t deadline_ = kNever;
};

}  // namespace mayfly::init
