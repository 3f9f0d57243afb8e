// The block device with several queues (virtio 1.2, section 5.2.2).
#include "tests/unit/virtio/block_bench.h"

using namespace mayfly;
using namespace mayfly::test::block;
using test::DriverQueue;
using test::FakeDisk;
namespace reg = test::reg;

namespace {

// A bench whose queues are all set up.
struct Queues : Bench {
  explicit Queues(Options options) : Bench(options) {
    REQUIRE(registers.negotiate(features));
    for (std::uint16_t i = 0; i < options.queues; ++i) {
      drivers.emplace_back(guest, options.queue_size, features);
      registers.set_queue(i, drivers.back().layout());
    }
    registers.start();
    REQUIRE(registers.status() == 15);
  }
  void notify(std::uint16_t index) { registers.notify(index); }
  std::vector<DriverQueue> drivers;
};

}  // namespace

TEST_CASE("block queues: as many as were asked for, within bounds") {
  Bench one;
  CHECK((one.registers.offered() & kFeatureMultiQueue) == 0);
  CHECK(one.registers.read<std::uint16_t>(reg::kConfig + 34) == 0);
  for (const auto& [asked, got] : {std::pair{2, 2}, {32, 32}, {33, 32}, {1000, 32}}) {
    Bench b({.queues = static_cast<std::uint16_t>(asked)});
    CHECK((b.registers.offered() & kFeatureMultiQueue) != 0);
    CHECK(b.registers.read<std::uint16_t>(reg::kConfig + 34) == got);
    b.registers.write(reg::kQueueSel, static_cast<std::uint32_t>(got - 1));
    CHECK(b.registers.read(reg::kQueueNumMax) == kQueueSize);
    b.registers.write(reg::kQueueSel, static_cast<std::uint32_t>(got));
    CHECK(b.registers.read(reg::kQueueNumMax) == 0);
  }
}

TEST_CASE("block queues: each is answered where it asked") {
  Queues b({.queue_size = 16, .queues = 4});
  std::vector<std::uint16_t> heads;
  for (std::uint16_t i = 0; i < 4; ++i) {
    heads.push_back(b.request(kTypeIn, i).writable(513).submit(b.drivers[i]));
  }
  // Only the one that is told of.
  b.notify(2);
  CHECK(b.next_used(b.drivers[2])->id == heads[2]);
  for (const std::size_t i : {0U, 1U, 3U}) CHECK_FALSE(b.drivers[i].take_used());
  for (const std::uint16_t i : std::vector<std::uint16_t>{3, 0, 1}) {
    b.notify(i);
    CHECK(b.next_used(b.drivers[i])->id == heads[i]);
    auto bytes = b.drivers[i].bytes_of(heads[i]);
    bytes.pop_back();
    CHECK(bytes == b.on_disk(i, 1));
  }
  CHECK(b.metrics().reads == 4);
}

TEST_CASE("block queues: a driver may use some of them, or none but the first") {
  SECTION("some") {
    Bench b({.queues = 4});
    DriverQueue third(b.guest, 16, b.features);
    REQUIRE(b.registers.negotiate(b.features));
    b.registers.set_queue(3, third.layout());
    b.registers.start();
    CHECK(b.registers.status() == 15);
    b.request(kTypeIn, 1).writable(513).submit(third);
    b.registers.notify(0);
    CHECK_FALSE(b.next_used(third));
    b.registers.notify(3);
    CHECK(b.next_used(third));
  }
  SECTION("without MQ, the first is the only one") {
    Queues b({.declined = kFeatureMultiQueue, .queues = 2});
    b.request(kTypeIn, 1).writable(513).submit(b.drivers[1]);
    b.notify(1);
    CHECK_FALSE(b.next_used(b.drivers[1]));
    b.request(kTypeIn, 1).writable(513).submit(b.drivers[0]);
    b.notify(0);
    CHECK(b.next_used(b.drivers[0]));
  }
  SECTION("without MQ, another alone is none") {
    Bench b({.declined = kFeatureMultiQueue, .queues = 2});
    DriverQueue second(b.guest, 16, b.features);
    REQUIRE(b.registers.negotiate(b.features));
    b.registers.set_queue(1, second.layout());
    b.registers.start();
    CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
  }
}

TEST_CASE("block queues: one that is full does not keep another waiting") {
  Queues b({.declined = kFeatureEventIdx, .queue_size = 256, .queues = 3});
  // Two queues with more than a turn, one with a single request.
  for (unsigned i = 0; i < 128; ++i) {
    b.request(kTypeFlush).writable(1).submit(b.drivers[0]);
    b.request(kTypeFlush).writable(1).submit(b.drivers[1]);
  }
  b.request(kTypeFlush).writable(1).submit(b.drivers[2]);
  b.notify(0);
  b.notify(1);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 2 * Device::kBatch);
  b.notify(2);
  CHECK(b.drivers[2].take_used());
  int answered = 0;
  while (b.next_used(b.drivers[0])) ++answered;
  while (b.next_used(b.drivers[1])) ++answered;
  CHECK(answered == 256);
}

TEST_CASE("block queues: when all that may be are on their way, each queue gets its share") {
  Queues b({.engine = Engine::kAsync, .declined = kFeatureEventIdx, .queue_size = 256, .queues = 4});
  b.ring.slow = true;
  for (unsigned i = 0; i < 128; ++i) {
    for (auto& driver : b.drivers) b.request(kTypeFlush).writable(1).submit(driver);
  }
  for (std::uint16_t i = 0; i < 4; ++i) b.notify(i);
  for (int i = 0; i < 10; ++i) b.pump();
  CHECK(b.ring.begun.size() == kMostInFlight);
  int answered = 0;
  for (int round = 0; answered < 512; ++round) {
    REQUIRE(round < 100);
    b.ring.finish_all();
    b.pump();
    b.pump();
    for (auto& driver : b.drivers) {
      int some = 0;
      while (driver.take_used()) ++some;
      answered += some;
      // While all of them have more, none goes away with nothing.
      if (round == 0) CHECK(some > 0);
    }
  }
  CHECK(b.ring.most_in_flight == kMostInFlight);
  CHECK(b.metrics().flushes == 512);
}

TEST_CASE("block queues: quiesce with requests that wait for room") {
  Queues b({.engine = Engine::kAsync, .queue_size = 256, .queues = 4});
  b.ring.slow = true;
  for (unsigned i = 0; i < 128; ++i) {
    for (auto& driver : b.drivers) b.request(kTypeFlush).writable(1).submit(driver);
  }
  for (std::uint16_t i = 0; i < 4; ++i) b.notify(i);
  for (int i = 0; i < 10; ++i) b.pump();
  {
    const std::lock_guard lock(b.device->mutex());
    b.device->quiesce();
  }
  CHECK(b.ring.begun.empty());
  CHECK(b.metrics().flushes == kMostInFlight);
  // The rest once the loop has its turn again.
  b.ring.slow = false;
  int answered = 0;
  for (auto& driver : b.drivers) {
    while (b.next_used(driver)) ++answered;
  }
  CHECK(answered == 512);
}

TEST_CASE("block queues: one that is broken stops all until reset") {
  Queues b({.queue_size = 16, .queues = 2});
  b.drivers[1].set_available_index(500);
  b.notify(1);
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
  b.request(kTypeFlush).writable(1).submit(b.drivers[0]);
  b.notify(0);
  CHECK_FALSE(b.next_used(b.drivers[0]));
}

TEST_CASE("block queues: a notification of a queue that is not there") {
  Queues b({.queue_size = 16, .queues = 2});
  for (const std::uint32_t index : {2U, 31U, 32U, 33U, 65536U, 0xffffffffU}) b.registers.notify(index);
  CHECK(b.registers.status() == 15);
}

TEST_CASE("block queues: a saved device goes on where each was") {
  Queues b({.queue_size = 16, .queues = 3});
  for (std::uint16_t i = 0; i < 3; ++i) {
    for (std::uint16_t n = 0; n < i; ++n) {
      b.request(kTypeIn, 1).writable(513).submit(b.drivers[i]);
      b.notify(i);
      CHECK(b.next_used(b.drivers[i]));
    }
  }
  const auto registers = b.transport.save();
  State state;
  {
    const std::lock_guard lock(b.device->mutex());
    b.device->quiesce();
    state = b.device->save();
  }
  REQUIRE(state.queues.size() == 3);
  {
    const auto other = b.make({.queues = 3});
    MmioTransport transport(*other, b.guest.memory(), [] {});
    REQUIRE(transport.restore(registers, state.queues));
    for (std::uint16_t i = 0; i < 3; ++i) {
      CHECK(state.queues[i].next_used == i);
      b.request(kTypeIn, 1).writable(513).submit(b.drivers[i]);
      transport.queue_notified(i);
      CHECK(b.next_used(b.drivers[i]));
    }
  }
  // Another number of queues is another device.
  const auto smaller = b.make({.queues = 2});
  MmioTransport refusing(*smaller, b.guest.memory(), [] {});
  CHECK_FALSE(refusing.restore(registers, state.queues));
}
