#include "virtio/rate_limiter.h"

#include <algorithm>
#include <limits>

namespace mayfly::virtio {

namespace {

void replace(std::optional<TokenBucket>& bucket, const std::optional<BucketConfig>& config,
             Clock::time_point now) {
  if (!config) return;
  bucket.reset();
  if (config->limits()) bucket.emplace(*config, now);
}

}  // namespace

TokenBucket::TokenBucket(const BucketConfig& config, Clock::time_point now)
    : size_(config.size),
      refill_ns_(std::chrono::nanoseconds(config.refill_time).count()),
      level_(full()),
      burst_(Amount{config.one_time_burst} * refill_ns_),
      refilled_(now) {}

void TokenBucket::refill(Clock::time_point now) {
  if (now <= refilled_) return;
  const std::int64_t elapsed = std::chrono::nanoseconds(now - refilled_).count();
  level_ = std::min(level_ + Amount{size_} * elapsed, full());
  refilled_ = now;
}

std::chrono::nanoseconds TokenBucket::delay(Clock::time_point now) {
  refill(now);
  const Amount token = refill_ns_;
  if (level_ >= token || burst_ > 0) return std::chrono::nanoseconds(0);
  // Rounded up: to the first nanosecond at which it is whole.
  const Amount wait = (token - level_ + size_ - 1) / size_;
  constexpr auto kLongest = std::numeric_limits<std::int64_t>::max();
  return std::chrono::nanoseconds(wait > kLongest ? kLongest : static_cast<std::int64_t>(wait));
}

void TokenBucket::take(std::uint64_t tokens, Clock::time_point now) {
  refill(now);
  Amount needed = Amount{tokens} * refill_ns_;
  const Amount from_burst = std::min(burst_, needed);
  burst_ -= from_burst;
  needed -= from_burst;
  level_ -= needed;
}

std::chrono::nanoseconds RateLimiter::delay(Clock::time_point now) {
  std::chrono::nanoseconds longest(0);
  if (bandwidth_) longest = bandwidth_->delay(now);
  if (operations_) longest = std::max(longest, operations_->delay(now));
  return longest;
}

void RateLimiter::take(std::uint64_t bytes, Clock::time_point now) {
  if (bandwidth_) bandwidth_->take(bytes, now);
  if (operations_) operations_->take(1, now);
}

void RateLimiter::update(const RateLimiterConfig& config, Clock::time_point now) {
  replace(bandwidth_, config.bandwidth, now);
  replace(operations_, config.operations, now);
}

}  // namespace mayfly::virtio
