// The block device on the asynchronous engine: requests that are on their way for as long as a test wants.
#include "tests/unit/virtio/block_bench.h"

using namespace mayfly;
using namespace mayfly::test::block;
using test::ChainBuilder;
using test::DriverQueue;
using test::FakeDisk;
using Kind = FakeDisk::Kind;
namespace reg = test::reg;

namespace {

// An asynchronous bench whose disk is slow.
struct Slow : Bench {
  explicit Slow(Options options = {}) : Bench(asynchronous(options)) { ring.slow = true; }
  static Options asynchronous(Options options) {
    options.engine = Engine::kAsync;
    return options;
  }
  std::uint16_t read(std::uint64_t sector) { return request(kTypeIn, sector).writable(513).submit(driver); }
  std::uint16_t write(std::uint64_t sector, char what) {
    return request(kTypeOut, sector).readable(std::string(512, what)).writable(1).submit(driver);
  }
  std::uint8_t status_of(std::uint16_t head) {
    return static_cast<std::uint8_t>(driver.bytes_of(head).back());
  }
  void quiesce() {
    const std::lock_guard lock(device->mutex());
    device->quiesce();
  }
};

}  // namespace

TEST_CASE("block async: nothing is answered before the disk is done, and then all is") {
  Slow b;
  const auto read = b.read(5);
  const auto write = b.write(9, 'w');
  b.kick();
  CHECK(b.ring.begun.size() == 2);
  CHECK(b.ring.submits == 1);  // one for the batch
  CHECK_FALSE(b.next_used());
  CHECK(b.irqs == 0);
  b.ring.finish_all();
  CHECK(b.next_used()->id == read);
  CHECK(b.next_used()->id == write);
  CHECK(b.irqs == 1);
  CHECK(b.status_of(read) == kOk);
  CHECK(b.status_of(write) == kOk);
  CHECK(b.on_disk(9, 1) == test::to_bytes(std::string(512, 'w')));
}

TEST_CASE("block async: answers come in the order of the disk") {
  Slow b;
  b.ring.reversed = true;
  const auto first = b.read(1);
  const auto second = b.read(2);
  b.kick();
  b.ring.finish_all();
  CHECK(b.next_used()->id == second);
  CHECK(b.next_used()->id == first);
  auto bytes = b.driver.bytes_of(first);
  bytes.pop_back();
  CHECK(bytes == b.on_disk(1, 1));
}

TEST_CASE("block async: what the disk has at once is answered with the notification") {
  Bench b({.engine = Engine::kAsync});
  const auto head = b.request(kTypeIn, 1).writable(513).submit(b.driver);
  b.kick();
  CHECK(b.driver.take_used()->id == head);
  CHECK(b.irqs == 1);
}

TEST_CASE("block async: short transfers are gone on with, interrupted ones repeated") {
  Slow b;
  b.ring.slow = false;
  b.disk.script = {100, -EINTR, 1, -EAGAIN, 300};
  CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(512).writable(1)) == kOk);
  CHECK(b.answer == b.on_disk(5, 2));
  b.disk.script = {1, -ENOSPC};
  CHECK(b.send(b.request(kTypeOut, 5).readable(std::string(512, 'x')).writable(1)) == kIoError);
  CHECK(b.metrics().no_space == 1);
  b.disk.script = {1, 0};
  CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(1)) == kIoError);
  CHECK(b.answer == std::vector<std::byte>(512));
  CHECK(b.metrics().short_reads == 1);
}

TEST_CASE("block async: a kernel without memory is asked again") {
  Slow b;
  b.ring.slow = false;
  b.ring.refusals = 3;
  const auto head = b.read(1);
  b.kick();
  CHECK_FALSE(b.driver.take_used());
  // By a timer of the loop's.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  std::optional<test::Used> used;
  while (!used && std::chrono::steady_clock::now() < deadline) {
    b.pump();
    used = b.driver.take_used();
  }
  REQUIRE(used);
  CHECK(used->id == head);
  CHECK(b.ring.refusals == 0);
}

TEST_CASE("block async: a flush does not wait for writes that are on their way") {
  // Section 5.2.6.2: it covers what was completed when it was sent.
  Slow b;
  const auto write = b.write(1, 'w');
  b.kick();
  b.ring.reversed = true;
  const auto flush = b.request(kTypeFlush).writable(1).submit(b.driver);
  b.kick();
  CHECK(b.ring.begun.size() == 2);
  b.ring.finish_all();
  CHECK(b.next_used()->id == flush);
  CHECK(b.next_used()->id == write);
}

TEST_CASE("block async: where FLUSH was declined a write is answered when it is stable") {
  Slow b({.declined = kFeatureFlush});
  const auto head = b.write(1, 'w');
  b.kick();
  b.ring.finish_all();
  CHECK_FALSE(b.next_used());
  CHECK(b.ring.begun.size() == 1);
  CHECK(b.ring.begun[0].first.kind == Kind::kSync);
  b.ring.finish_all();
  CHECK(b.next_used()->id == head);
}

TEST_CASE("block async: what no ring can do is done in place") {
  Slow b;
  const Segment segment{1ULL, 1U, 0U};
  CHECK(b.send(b.request(kTypeDiscard).readable_object(segment).writable(1)) == kOk);
  CHECK(b.disk.calls[Kind::kDiscard] == 1);
  CHECK(b.ring.begun.empty());
}

// ---- The end of what is on its way ----

TEST_CASE("block async: reset waits, and touches no memory afterwards") {
  Slow b;
  std::vector<std::uint16_t> heads;
  for (std::uint64_t i = 0; i < 20; ++i) heads.push_back(b.read(i));
  heads.push_back(b.write(30, 'w'));
  b.kick();
  REQUIRE(b.ring.begun.size() == 21);
  SECTION("what cannot be given up is done") {
    b.registers.write(reg::kStatus, 0U);
    CHECK(b.on_disk(30, 1) == test::to_bytes(std::string(512, 'w')));
  }
  SECTION("what can be is given up") {
    b.ring.cancels = true;
    b.registers.write(reg::kStatus, 0U);
    CHECK(b.on_disk(30, 1) != test::to_bytes(std::string(512, 'w')));
    CHECK(b.metrics().read_errors == 0);
  }
  SECTION("what is half done is not gone on with") {
    b.disk.script = {100};
    b.registers.write(reg::kStatus, 0U);
    CHECK(b.disk.calls[Kind::kRead] == 20);
  }
  CHECK(b.registers.status() == 0);
  CHECK(b.irqs == 0);
  CHECK(b.ring.begun.empty());
  CHECK(b.ring.finished.empty());
  // All of memory, so that any later touch shows: rings, headers, buffers.
  const std::uint64_t size = 1U << 20U;
  b.guest.fill(base::GuestAddress(0), size, std::byte{0xa5});
  const auto calls = b.disk.calls;
  for (int i = 0; i < 10; ++i) b.pump();
  CHECK(b.disk.calls == calls);
  CHECK(b.guest.read(base::GuestAddress(0), size) == std::vector<std::byte>(size, std::byte{0xa5}));
  // And it starts anew.
  b.ring.slow = false;
  DriverQueue fresh(b.guest, 64, b.features);
  b.guest.fill(base::GuestAddress(0), b.guest.allocate(16).value() + 16, std::byte{0});
  b.start(fresh);
  b.request(kTypeIn, 1).writable(513).submit(fresh);
  b.kick();
  CHECK(b.next_used(fresh));
}

TEST_CASE("block async: a driver that gives up, and a device that ends, leave nothing behind") {
  auto b = std::make_unique<Slow>();
  for (std::uint64_t i = 0; i < 5; ++i) b->read(i);
  b->kick();
  REQUIRE(b->ring.begun.size() == 5);
  SECTION("FAILED") {
    b->registers.add_status(kStatusFailed);
    CHECK(b->ring.begun.empty());
  }
  SECTION("a broken queue") {
    b->driver.set_available_index(5000);
    b->kick();
    CHECK(b->ring.begun.empty());
    CHECK((b->registers.status() & kStatusDeviceNeedsReset) != 0);
    // What was taken before is answered.
    int answered = 0;
    while (b->driver.take_used()) ++answered;
    CHECK(answered == 5);
    CHECK(b->registers.read(reg::kInterruptStatus) == (kInterruptUsed | kInterruptConfig));
  }
  SECTION("the end") {}
  b.reset();  // FakeRing aborts when something is on its way
}

TEST_CASE("block async: quiesce finishes what is on its way and tells the driver") {
  Slow b;
  const auto head = b.read(7);
  b.kick();
  b.quiesce();
  CHECK(b.ring.begun.empty());
  CHECK(b.irqs == 1);
  CHECK(b.driver.take_used()->id == head);
  CHECK(b.status_of(head) == kOk);
  CHECK(b.registers.status() == 15);
  b.quiesce();
  CHECK(b.irqs == 1);
  b.ring.slow = false;
  CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(1)) == kOk);
}

TEST_CASE("block async: quiesce goes on with short transfers to their end") {
  Slow b;
  b.disk.script = {100, -EINTR, 7};
  const auto head = b.read(7);
  b.kick();
  b.quiesce();
  CHECK(b.driver.take_used()->id == head);
  CHECK(b.status_of(head) == kOk);
}

TEST_CASE("block async: an update loses no request") {
  Slow b;
  std::vector<std::uint16_t> heads;
  for (std::uint64_t i = 0; i < 10; ++i) heads.push_back(b.write(i, 'w'));
  const auto read = b.read(63);
  b.kick();
  REQUIRE(b.ring.begun.size() == 11);
  SECTION("another file") {
    REQUIRE(b.update("second"));
    CHECK(b.capacity() == 10);
    CHECK(b.ring.rings == 0);
    CHECK(b.second_ring.rings == 1);
  }
  SECTION("another size") {
    b.disk.resize(65 * 512);
    REQUIRE(b.update(""));
    CHECK(b.capacity() == 65);
  }
  SECTION("no file, and everything goes on") {
    CHECK_FALSE(b.update("third"));
    CHECK(b.ring.begun.size() == 11);
    b.ring.finish_all();
  }
  for (const auto head : heads) {
    CHECK(b.next_used()->id == head);
    CHECK(b.status_of(head) == kOk);
  }
  CHECK(b.next_used()->id == read);
  // On the disk that they were sent to.
  CHECK(b.on_disk(0, 10) == test::to_bytes(std::string(5120, 'w')));
  b.ring.slow = false;
  CHECK(b.send(b.request(kTypeIn, 9).writable(512).writable(1)) == kOk);
}

TEST_CASE("block async: a bounded number is on its way, and the rest follows") {
  Slow b({.declined = kFeatureEventIdx, .queue_size = 256});
  // More than may be in flight: the driver uses the places of the ring again that were answered.
  unsigned sent = 0;
  unsigned answered = 0;
  const unsigned all = 2 * kMostInFlight;
  const auto send_some = [&] {
    while (sent < all && b.driver.free_descriptors() >= 1) {
      std::array<test::Buffer, 1> buffer = {{{b.guest.allocate(16), 16, true}}};
      b.driver.submit(buffer);
      ++sent;
    }
    b.kick();
  };
  // Each is malformed (no header), so answered at once.
  send_some();
  while (answered < all) {
    if (b.driver.take_used()) {
      ++answered;
    } else {
      send_some();
      b.pump();
    }
  }
  CHECK(b.metrics().malformed_requests == all);

  // Good ones stay on their way.
  for (unsigned i = 0; i < 128; ++i) b.request(kTypeFlush).writable(1).submit(b.driver);
  b.kick();
  for (int i = 0; i < 5; ++i) b.pump();
  CHECK(b.ring.begun.size() == 128);
  CHECK(b.ring.most_in_flight <= kMostInFlight);
  b.ring.finish_all();
  for (unsigned i = 0; i < 128; ++i) CHECK(b.next_used());
}
