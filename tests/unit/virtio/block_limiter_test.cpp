// The rate limiter of the block device. No test waits for less time to pass than the limiter asks for.
#include "block_bench.h"

namespace mayfly::test::block {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

RateLimiterConfig requests(std::uint64_t count, milliseconds refill) {
  return {.operations = BucketConfig{.size = count, .refill_time = refill}};
}

void submit_reads(Bench& b, int count) {
  for (int i = 0; i < count; ++i) b.request(kTypeIn, 1).writable(512).writable(1).submit(b.driver);
  b.kick();
}

int finished(Bench& b) {
  int count = 0;
  for (; const auto used = b.next_used(); ++count) {
    CHECK(static_cast<std::uint8_t>(b.driver.bytes_of(used->id).back()) == kOk);
  }
  return count;
}

}  // namespace

TEST_CASE("requests wait in the queue while the bucket is empty, and a new limiter lets them go") {
  const RateLimiterConfig bytes = {.bandwidth = BucketConfig{.size = 3 * 512 - 1, .refill_time = hours(1)}};
  Bench b({.limit = GENERATE_REF(requests(3, hours(1)), bytes)});
  submit_reads(b, 10);
  CHECK(finished(b) == 3);
  CHECK(b.metrics().reads == 3);
  CHECK(b.metrics().throttled >= 1);
  b.kick();
  CHECK(finished(b) == 0);

  {
    const std::lock_guard lock(b.device->mutex());
    b.device->update(RateLimiterConfig{.bandwidth = BucketConfig{}, .operations = BucketConfig{}});
  }
  CHECK(finished(b) == 7);
}

TEST_CASE("the block device's bucket refills by itself, and not before its time") {
  const auto start = std::chrono::steady_clock::now();
  Bench b({.limit = requests(1, milliseconds(20))});
  submit_reads(b, 6);
  const auto deadline = start + std::chrono::minutes(1);
  while (b.metrics().reads < 6 && std::chrono::steady_clock::now() < deadline) b.pump();
  CHECK(b.metrics().reads == 6);
  CHECK(std::chrono::steady_clock::now() - start >= milliseconds(100));
}

TEST_CASE("a flush uses an operation and no bytes") {
  Bench b({.limit = {.bandwidth = BucketConfig{.size = 1, .refill_time = hours(1)},
                     .operations = BucketConfig{.size = 5, .refill_time = hours(1)}}});
  for (int i = 0; i < 6; ++i) b.request(kTypeFlush).writable(1).submit(b.driver);
  b.kick();
  CHECK(finished(b) == 5);
}

TEST_CASE("a reset while requests wait for the limiter forgets them") {
  Bench b({.limit = requests(1, hours(1))});
  submit_reads(b, 4);
  CHECK(finished(b) == 1);
  b.registers.write(reg::kStatus, 0);
  for (int i = 0; i < 20; ++i) b.pump();
  CHECK(b.metrics().reads == 1);
}

}  // namespace mayfly::test::block
