#include "virtio/rate_limiter.h"

#include <catch2/catch.hpp>
#include <limits>

namespace mayfly::virtio {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr Clock::time_point kStart{};

// Takes `request` tokens whenever the bucket lets it, until `end`; returns how many it got.
std::uint64_t drain(TokenBucket& bucket, std::uint64_t request, Clock::time_point end) {
  std::uint64_t taken = 0;
  Clock::time_point now = kStart;
  for (;;) {
    now += bucket.delay(now);
    if (now >= end) return taken;
    bucket.take(request, now);
    taken += request;
  }
}

}  // namespace

TEST_CASE("a bucket starts full and is refilled evenly") {
  TokenBucket bucket({.size = 1000, .refill_time = milliseconds(100)}, kStart);
  CHECK(bucket.delay(kStart) == nanoseconds(0));
  bucket.take(1000, kStart);
  // A token takes 100 us to come.
  CHECK(bucket.delay(kStart) == microseconds(100));
  bucket.take(10, kStart);
  CHECK(bucket.delay(kStart) == microseconds(1100));
  CHECK(bucket.delay(kStart + microseconds(1099)) == microseconds(1));
  CHECK(bucket.delay(kStart + microseconds(1100)) == nanoseconds(0));
}

TEST_CASE("the rate over time is exact for any size of request") {
  // 1 MB a second for 10 s, and the bucket that was full at first.
  const std::uint64_t request = GENERATE(as<std::uint64_t>{}, 1, 7, 512, 4096, 999'983, 5'000'000);
  TokenBucket bucket({.size = 100'000, .refill_time = milliseconds(100)}, kStart);
  const std::uint64_t taken = drain(bucket, request, kStart + seconds(10));
  CHECK(taken < 10'100'000 + request);
  CHECK(taken + 1 >= 10'100'000);
}

TEST_CASE("rates that no nanosecond divides do not drift") {
  TokenBucket bucket({.size = 3, .refill_time = milliseconds(7)}, kStart);
  // The token that comes at the end is not taken any more.
  CHECK(drain(bucket, 1, kStart + seconds(700)) == 300'002);
}

TEST_CASE("a bucket is never fuller than its size") {
  TokenBucket bucket({.size = 10, .refill_time = milliseconds(10)}, kStart);
  bucket.take(10, kStart);
  const auto later = kStart + seconds(3600);
  CHECK(bucket.delay(later) == nanoseconds(0));
  bucket.take(10, later);
  CHECK(bucket.delay(later) > nanoseconds(0));
}

TEST_CASE("the burst is there once") {
  TokenBucket bucket({.size = 10, .refill_time = milliseconds(10), .one_time_burst = 90}, kStart);
  bucket.take(90, kStart);
  CHECK(bucket.delay(kStart) == nanoseconds(0));
  bucket.take(10, kStart);
  CHECK(bucket.delay(kStart) > nanoseconds(0));
  const auto later = kStart + seconds(10);
  bucket.take(10, later);
  CHECK(bucket.delay(later) > nanoseconds(0));
}

TEST_CASE("a clock that stands still or goes back gives no tokens") {
  TokenBucket bucket({.size = 10, .refill_time = milliseconds(10)}, kStart + seconds(1));
  bucket.take(10, kStart + seconds(1));
  CHECK(bucket.delay(kStart) > nanoseconds(0));
}

TEST_CASE("the largest numbers overflow nothing") {
  constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();
  TokenBucket bucket({.size = kMost, .refill_time = milliseconds(1), .one_time_burst = kMost}, kStart);
  bucket.take(kMost, kStart);
  CHECK(bucket.delay(kStart) == nanoseconds(0));
  bucket.take(kMost, kStart);
  CHECK(bucket.delay(kStart) == nanoseconds(1));
  TokenBucket slow({.size = 1, .refill_time = milliseconds(1'000'000'000)}, kStart);
  slow.take(kMost, kStart);
  CHECK(slow.delay(kStart) == nanoseconds::max());
}

TEST_CASE("a limiter waits for the slower of its buckets") {
  RateLimiter limiter({.bandwidth = BucketConfig{.size = 1000, .refill_time = seconds(1)},
                       .operations = BucketConfig{.size = 2, .refill_time = seconds(1)}},
                      kStart);
  limiter.take(1, kStart);
  CHECK(limiter.delay(kStart) == nanoseconds(0));
  limiter.take(1, kStart);
  CHECK(limiter.delay(kStart) == milliseconds(500));  // out of operations
  limiter.take(3000, kStart + seconds(1));
  CHECK(limiter.delay(kStart + seconds(1)) == seconds(2) + milliseconds(1));  // 2000 bytes owed
}

TEST_CASE("buckets that are absent or zero limit nothing") {
  RateLimiter none({}, kStart);
  RateLimiter zero({.bandwidth = BucketConfig{}, .operations = BucketConfig{.size = 5}}, kStart);
  for (int i = 0; i < 100; ++i) {
    none.take(1U << 30U, kStart);
    zero.take(1U << 30U, kStart);
  }
  CHECK(none.delay(kStart) == nanoseconds(0));
  CHECK(zero.delay(kStart) == nanoseconds(0));
}

TEST_CASE("an update replaces what it names, and removes with zeros") {
  RateLimiter limiter({.bandwidth = BucketConfig{.size = 1, .refill_time = seconds(1)},
                       .operations = BucketConfig{.size = 1, .refill_time = seconds(1)}},
                      kStart);
  for (int i = 0; i < 100; ++i) limiter.take(1, kStart);
  CHECK(limiter.delay(kStart) > seconds(90));
  limiter.update({.bandwidth = BucketConfig{}}, kStart);
  CHECK(limiter.delay(kStart) == seconds(100));  // 99 operations owed
  limiter.update({.operations = BucketConfig{.size = 5, .refill_time = seconds(1)}}, kStart);
  CHECK(limiter.delay(kStart) == nanoseconds(0));
}

}  // namespace mayfly::virtio
