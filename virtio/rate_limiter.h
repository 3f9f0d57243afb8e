// How much a device may move: token buckets for bytes and for operations.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace mayfly::virtio {

inline constexpr std::chrono::milliseconds kLongestRefill{1'000'000'000};  // 11 days

// A bucket holds up to `size` tokens and is refilled evenly, an empty one in `refill_time`. It starts full,
// with `one_time_burst` tokens more, which are never refilled. All zero, or a size or time of zero: no limit.
struct BucketConfig {
  std::uint64_t size = 0;                    // bytes, or operations
  std::chrono::milliseconds refill_time{0};  // at most kLongestRefill
  std::uint64_t one_time_burst = 0;

  [[nodiscard]] bool limits() const { return size != 0 && refill_time.count() > 0; }
  bool operator==(const BucketConfig&) const = default;
};

struct RateLimiterConfig {
  std::optional<BucketConfig> bandwidth{};   // a token a byte
  std::optional<BucketConfig> operations{};  // a token a request

  bool operator==(const RateLimiterConfig&) const = default;

  // As RateLimiter::update() takes it: a bucket that is present replaces the one before it, or removes it.
  void update(const RateLimiterConfig& change) {
    if (change.bandwidth) bandwidth = change.bandwidth;
    if (change.operations) operations = change.operations;
    if (bandwidth && !bandwidth->limits()) bandwidth.reset();
    if (operations && !operations->limits()) operations.reset();
  }
};

using Clock = std::chrono::steady_clock;

// One bucket. Whoever finds a whole token in it may take as many as the work needs: what is missing is owed,
// and paid back before anybody may go on. So the rate over time is exact, however large the requests, and
// none waits for ever.
class TokenBucket {
 public:
  TokenBucket(const BucketConfig& config, Clock::time_point now);

  // How long until there is a token: zero, now.
  [[nodiscard]] std::chrono::nanoseconds delay(Clock::time_point now);
  void take(std::uint64_t tokens, Clock::time_point now);

 private:
  // Tokens times nanoseconds of the refill time: no fraction is ever rounded away, so nothing drifts.
  __extension__ using Amount = __int128;

  void refill(Clock::time_point now);
  [[nodiscard]] Amount full() const { return Amount{size_} * refill_ns_; }

  std::uint64_t size_;
  std::int64_t refill_ns_;
  Amount level_;  // negative: owed
  Amount burst_;  // what is left of the burst
  Clock::time_point refilled_;
};

// Both buckets of one direction of a device. Used under the device's mutex.
class RateLimiter {
 public:
  RateLimiter(const RateLimiterConfig& config, Clock::time_point now) { update(config, now); }

  // False: delay() is always zero, and take() does nothing.
  [[nodiscard]] bool limits() const { return bandwidth_.has_value() || operations_.has_value(); }
  // How long the next request has to wait: zero, not at all.
  [[nodiscard]] std::chrono::nanoseconds delay(Clock::time_point now);
  // A request of so many bytes was let through.
  void take(std::uint64_t bytes, Clock::time_point now);
  // A bucket that is present replaces the one before it, and starts full; one that limits nothing removes it.
  void update(const RateLimiterConfig& config, Clock::time_point now);

 private:
  std::optional<TokenBucket> bandwidth_;
  std::optional<TokenBucket> operations_;
};

}  // namespace mayfly::virtio
