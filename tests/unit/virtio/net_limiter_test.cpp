// Rate limiters of the network device. No test waits for less time to pass than the limiter asks for.
#include <catch2/catch.hpp>
#include <chrono>

#include "net_bench.h"

namespace mayfly::virtio::net {
namespace {

using namespace test;
using std::chrono::hours;
using std::chrono::milliseconds;

RateLimiterConfig frames(std::uint64_t count, milliseconds refill) {
  return {.operations = BucketConfig{.size = count, .refill_time = refill}};
}

RateLimiterConfig bytes(std::uint64_t count, milliseconds refill) {
  return {.bandwidth = BucketConfig{.size = count, .refill_time = refill}};
}

const RateLimiterConfig kNoLimit = {.bandwidth = BucketConfig{}, .operations = BucketConfig{}};

void update(NetBench& b, const RateLimiterConfig& rx, const RateLimiterConfig& tx) {
  const std::lock_guard lock(b.device->mutex());
  b.device->update(rx, tx);
}

void submit(NetBench& b, int count) {
  for (int i = 0; i < count; ++i) ChainBuilder(b.guest).readable(packet(frame("to the host"))).submit(b.tx);
  b.registers.notify(1);
}

}  // namespace

TEST_CASE("frames of the guest wait in its queue while the bucket is empty") {
  NetBench b(
      {.tx_limit = GENERATE(frames(3, hours(1)), bytes(3 * frame("to the host").size() - 1, hours(1)))});
  submit(b, 10);
  b.rounds();
  CHECK(b.network.take_all() == 3);
  CHECK(b.metrics().tx_frames == 3);
  CHECK(b.metrics().tx_throttled >= 1);
  // Kicks do not help.
  submit(b, 1);
  b.rounds();
  CHECK(b.network.take_all() == 0);

  update(b, {}, kNoLimit);
  b.until([&] { return b.metrics().tx_frames == 11; });
  CHECK(b.network.take_all() == 8);
}

TEST_CASE("frames for the guest wait in the tap while the bucket is empty") {
  NetBench b(
      {.rx_limit = GENERATE(frames(3, hours(1)), bytes(3 * frame("to the guest").size() - 1, hours(1)))});
  for (int i = 0; i < 10; ++i) {
    b.offer(2000);
    b.network.arrive(packet(frame("to the guest")));
  }
  b.kick_rx();
  b.rounds();
  CHECK(b.metrics().rx_frames == 3);
  CHECK(b.metrics().rx_throttled >= 1);
  const int reads = b.network.reads;
  b.kick_rx();
  b.rounds();
  CHECK(b.network.reads == reads);  // nor is the tap looked at

  update(b, kNoLimit, {});
  b.until([&] { return b.metrics().rx_frames == 10; });
  for (int i = 0; i < 10; ++i) CHECK(receive(b) == expected(frame("to the guest"), 1));
}

TEST_CASE("the bucket refills by itself, and not before its time") {
  const auto start = std::chrono::steady_clock::now();
  NetBench b({.tx_limit = frames(1, milliseconds(20))});
  submit(b, 6);
  b.until([&] { return b.metrics().tx_frames == 6; });
  CHECK(std::chrono::steady_clock::now() - start >= milliseconds(100));
  CHECK(b.network.take_all() == 6);
}

TEST_CASE("frames that are dropped use the bucket, too") {
  NetBench b({.tx_limit = frames(3, hours(1))});
  for (int i = 0; i < 3; ++i) {
    ChainBuilder(b.guest).readable(packet(frame("spoofed", kHostMac))).submit(b.tx);
  }
  submit(b, 1);
  b.rounds();
  CHECK(b.metrics().tx_spoofed == 3);
  CHECK(b.network.take_all() == 0);
}

TEST_CASE("a reset while a limiter holds frames back forgets them, not the limit") {
  NetBench b({.rx_limit = frames(1, hours(1)), .tx_limit = frames(1, hours(1))});
  b.offer(2000);
  b.offer(2000);
  b.network.arrive(packet(frame("one")));
  b.network.arrive(packet(frame("two")));
  b.kick_rx();
  submit(b, 2);
  b.rounds();
  b.registers.write(reg::kStatus, 0);
  b.rounds();
  CHECK(b.metrics().tx_frames == 1);
  CHECK(b.metrics().rx_frames == 1);
}

}  // namespace mayfly::virtio::net
