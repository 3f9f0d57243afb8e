// The split virtqueue against proper drivers.
#include <catch2/catch.hpp>

#include "tests/support/virtio_driver.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using test::ChainBuilder;
using test::DriverQueue;
using test::FakeGuest;

namespace {

constexpr std::uint64_t kPlain = kFeatureVersion1;
constexpr std::uint64_t kWithIndirect = kFeatureVersion1 | kFeatureIndirectDesc;
constexpr std::uint64_t kEvents = kFeatureVersion1 | kFeatureEventIdx;

Chain pop_one(Queue& queue) {
  auto popped = queue.pop();
  REQUIRE(popped);
  REQUIRE(*popped);
  return std::move(**popped);
}

std::string read_all(Chain& chain) {
  std::vector<std::byte> bytes(chain.reader().remaining());
  chain.reader().read(bytes);
  return test::to_text(bytes);
}

}  // namespace

TEST_CASE("a chain goes to the device and back") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue queue = driver.device_queue();
  CHECK_FALSE(queue.pop().value());

  const auto head = ChainBuilder(guest).readable("hello").readable(" world").writable(4).submit(driver);
  Chain chain = pop_one(queue);
  CHECK(chain.head() == head);
  CHECK(read_all(chain) == "hello world");
  CHECK(chain.writer().remaining() == 4);
  CHECK(chain.writer().write(test::to_bytes("pong")) == 4);
  CHECK_FALSE(driver.take_used());
  queue.push(std::move(chain), 4);

  const auto used = driver.take_used();
  REQUIRE(used);
  CHECK(used->id == head);
  CHECK(used->length == 4);
  CHECK(test::to_text(driver.bytes_of(head)) == "pong");
  CHECK_FALSE(queue.pop().value());
}

TEST_CASE("chains may be returned in another order") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue queue = driver.device_queue();
  const auto first = ChainBuilder(guest).readable("1").submit(driver);
  const auto second = ChainBuilder(guest).readable("2").submit(driver);
  Chain a = pop_one(queue);
  Chain b = pop_one(queue);
  queue.push(std::move(b), 0);
  queue.push(std::move(a), 0);
  CHECK(driver.take_used()->id == second);
  CHECK(driver.take_used()->id == first);
}

TEST_CASE("indices wrap around at 2^16, in a queue of any size") {
  for (const std::uint16_t size :
       {std::uint16_t{1}, std::uint16_t{2}, std::uint16_t{256}, std::uint16_t{32768}}) {
    FakeGuest guest;
    DriverQueue driver(guest, size);
    Queue queue = driver.device_queue();
    driver.start_at(65530);
    queue.restore(
        {.next_available = 65530, .next_used = 65530, .signalled_used = 65530, .signalled_valid = true});
    for (int i = 0; i < 20; ++i) {
      const auto head = ChainBuilder(guest).readable("x").submit(driver);
      Chain chain = pop_one(queue);
      CHECK(chain.head() == head);
      queue.push(std::move(chain), 0);
      CHECK(driver.take_used()->id == head);
    }
    CHECK(queue.save().next_available == 14);
    CHECK(queue.save().next_used == 14);
  }
}

TEST_CASE("a full queue of the largest size") {
  FakeGuest guest;
  DriverQueue driver(guest, 32768);
  Queue queue = driver.device_queue();
  for (int i = 0; i < 32768; ++i) ChainBuilder(guest).readable("x").submit(driver);
  for (int i = 0; i < 32768; ++i) queue.push(pop_one(queue), 0);
  CHECK_FALSE(queue.pop().value());
  int returned = 0;
  while (driver.take_used()) ++returned;
  CHECK(returned == 32768);
}

TEST_CASE("indirect tables, alone and after ordinary descriptors") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kWithIndirect);
  Queue queue = driver.device_queue();
  for (const std::size_t direct : {std::size_t{0}, std::size_t{1}, std::size_t{2}}) {
    ChainBuilder(guest).readable("ab").readable("cd").readable("ef").writable(3).submit_indirect(driver,
                                                                                                 direct);
    Chain chain = pop_one(queue);
    CHECK(read_all(chain) == "abcdef");
    CHECK(chain.writer().remaining() == 3);
    queue.push(std::move(chain), 0);
    CHECK(driver.take_used());
  }
}

TEST_CASE("the WRITE flag of a descriptor that refers to a table means nothing") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kWithIndirect);
  Queue queue = driver.device_queue();
  const GuestAddress table = guest.allocate(16);
  const GuestAddress data = guest.allocate_bytes(test::to_bytes("data"));
  guest.store(table, test::RawDescriptor{data.value(), 4U, std::uint16_t{0}, std::uint16_t{0}});
  driver.write_descriptor(
      0, {table.value(), 16U, std::uint16_t{test::kIndirect | test::kWrite}, std::uint16_t{0}});
  driver.make_available(0);
  Chain chain = pop_one(queue);
  CHECK(read_all(chain) == "data");
  queue.push(std::move(chain), 0);
}

TEST_CASE("an indirect table may lie at an odd address and have more entries than the chain") {
  FakeGuest guest;
  DriverQueue driver(guest, 2, kWithIndirect);
  Queue queue = driver.device_queue();
  const GuestAddress table = guest.allocate(16 * 100 + 1).unchecked_add(1);
  const GuestAddress data = guest.allocate_bytes(test::to_bytes("data"));
  guest.store(table, test::RawDescriptor{data.value(), 2U, test::kNext, std::uint16_t{99}});
  guest.store(table.unchecked_add(16 * 99),
              test::RawDescriptor{data.value() + 2, 2U, std::uint16_t{0}, std::uint16_t{0}});
  driver.write_descriptor(1, {table.value(), 1600U, test::kIndirect, std::uint16_t{0}});
  driver.make_available(1);
  Chain chain = pop_one(queue);
  CHECK(read_all(chain) == "data");
  queue.push(std::move(chain), 0);
}

TEST_CASE("descriptors of no length count for nothing, wherever they point") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue queue = driver.device_queue();
  ChainBuilder(guest)
      .buffer(GuestAddress(~0ULL), 0, false)
      .readable("ab")
      .buffer(GuestAddress(0xdead0000'00000000ULL), 0, false)
      .readable("cd")
      .buffer(GuestAddress(0), 0, true)
      .writable(1)
      .submit(driver);
  Chain chain = pop_one(queue);
  CHECK(read_all(chain) == "abcd");
  CHECK(chain.writer().remaining() == 1);
  queue.push(std::move(chain), 0);
}

TEST_CASE("a chain as long as the queue, and buffers to the last byte of memory") {
  FakeGuest guest;
  DriverQueue driver(guest, 4);
  Queue queue = driver.device_queue();
  ChainBuilder(guest)
      .buffer(GuestAddress(guest.low_size() - 1), 1, false)
      .buffer(GuestAddress(FakeGuest::kHighStart), FakeGuest::kHighSize, false)
      .buffer(GuestAddress(FakeGuest::kHighStart + FakeGuest::kHighSize - 8), 8, true)
      .buffer(GuestAddress(0), 1, true)
      .submit(driver);
  Chain chain = pop_one(queue);
  CHECK(chain.reader().remaining() == 1 + FakeGuest::kHighSize);
  CHECK(chain.writer().remaining() == 9);
  queue.push(std::move(chain), 0);
}

TEST_CASE("a chain of 2^32 - 1 bytes is the longest") {
  FakeGuest guest(1ULL << 31U);
  DriverQueue driver(guest, 4);
  Queue queue = driver.device_queue();
  ChainBuilder(guest)
      .buffer(GuestAddress(0), 0x80000000U, true)
      .buffer(GuestAddress(0), 0x7fffffffU, true)
      .submit(driver);
  Chain chain = pop_one(queue);
  CHECK(chain.writer().remaining() == 0xffffffffU);
  queue.push(std::move(chain), 0);
}

TEST_CASE("a chain that was popped can be put back") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue queue = driver.device_queue();
  const auto head = ChainBuilder(guest).readable("once").submit(driver);
  Chain chain = pop_one(queue);
  CHECK(read_all(chain) == "once");
  queue.undo_pop(std::move(chain));
  Chain again = pop_one(queue);
  CHECK(again.head() == head);
  CHECK(read_all(again) == "once");
  queue.push(std::move(again), 0);
  CHECK_FALSE(queue.pop().value());
}

TEST_CASE("chains of one answer are returned together") {
  for (const std::uint16_t start : {std::uint16_t{0}, std::uint16_t{0xfffe}}) {
    FakeGuest guest;
    DriverQueue driver(guest, 4, kEvents);
    Queue queue = driver.device_queue();
    driver.start_at(start);
    queue.restore(
        {.next_available = start, .next_used = start, .signalled_used = start, .signalled_valid = true});
    driver.set_used_event(static_cast<std::uint16_t>(start + 1));
    std::vector<std::uint16_t> heads;
    for (int i = 0; i < 3; ++i) heads.push_back(ChainBuilder(guest).writable(8).submit(driver));
    queue.push_with_next(pop_one(queue), 8);
    queue.push_with_next(pop_one(queue), 7);
    CHECK_FALSE(driver.take_used());
    queue.push(pop_one(queue), 6);
    for (std::uint32_t i = 0; i < 3; ++i) {
      const auto used = driver.take_used();
      REQUIRE(used);
      CHECK(used->id == heads[i]);
      CHECK(used->length == 8 - i);
    }
    CHECK(queue.should_notify());
    CHECK_FALSE(queue.should_notify());
  }
}

TEST_CASE("a descriptor that changes after the pop changes nothing") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue queue = driver.device_queue();
  const auto head = ChainBuilder(guest).readable("good").submit(driver);
  Chain chain = pop_one(queue);
  driver.write_descriptor(head, {~0ULL, ~0U, std::uint16_t{0xffff}, std::uint16_t{0xffff}});
  CHECK(read_all(chain) == "good");
  CHECK(chain.head() == head);
  queue.push(std::move(chain), 0);
  CHECK(driver.take_used()->id == head);
}

TEST_CASE("without EVENT_IDX the driver's flag decides on notifications") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kPlain);
  Queue queue = driver.device_queue();
  CHECK_FALSE(queue.should_notify());  // nothing was pushed
  const auto turn = [&] {
    ChainBuilder(guest).readable("x").submit(driver);
    queue.push(pop_one(queue), 0);
    return queue.should_notify();
  };
  CHECK(turn());
  CHECK_FALSE(queue.should_notify());
  driver.set_available_flags(1);
  CHECK_FALSE(turn());
  driver.set_available_flags(0);
  CHECK(turn());
}

TEST_CASE("without EVENT_IDX the device's flag spares it notifications") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kPlain);
  Queue queue = driver.device_queue();
  queue.disable_notifications();
  CHECK(driver.used_flags() == 1);
  ChainBuilder(guest).readable("x").submit(driver);
  CHECK_FALSE(driver.should_kick());
  CHECK(queue.enable_notifications());  // one is there already
  CHECK(driver.used_flags() == 0);
  queue.push(pop_one(queue), 0);
  CHECK_FALSE(queue.enable_notifications());
  ChainBuilder(guest).readable("x").submit(driver);
  CHECK(driver.should_kick());
}

TEST_CASE("with EVENT_IDX a notification comes when used_event is passed, at any index") {
  for (const std::uint16_t start : {std::uint16_t{0}, std::uint16_t{65533}, std::uint16_t{32767}}) {
    FakeGuest guest;
    DriverQueue driver(guest, 8, kEvents);
    Queue queue = driver.device_queue();
    driver.start_at(start);
    queue.restore(
        {.next_available = start, .next_used = start, .signalled_used = start, .signalled_valid = true});
    // Wants to hear of the third element from now.
    driver.set_used_event(static_cast<std::uint16_t>(start + 2));
    for (int i = 0; i < 6; ++i) {
      ChainBuilder(guest).readable("x").submit(driver);
      queue.push(pop_one(queue), 0);
      CHECK(queue.should_notify() == (i == 2));
      CHECK(driver.take_used());
    }
  }
}

TEST_CASE("with EVENT_IDX a batch that passes used_event in its middle notifies once") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kEvents);
  Queue queue = driver.device_queue();
  driver.set_used_event(1);
  for (int i = 0; i < 4; ++i) ChainBuilder(guest).readable("x").submit(driver);
  for (int i = 0; i < 4; ++i) queue.push(pop_one(queue), 0);
  CHECK(queue.should_notify());
  CHECK_FALSE(queue.should_notify());
}

TEST_CASE("with EVENT_IDX the device asks for the next chain, at any index") {
  for (const std::uint16_t start : {std::uint16_t{0}, std::uint16_t{65534}}) {
    FakeGuest guest;
    DriverQueue driver(guest, 8, kEvents);
    Queue queue = driver.device_queue();
    driver.start_at(start);
    queue.restore(
        {.next_available = start, .next_used = start, .signalled_used = start, .signalled_valid = true});
    for (int i = 0; i < 5; ++i) {
      CHECK_FALSE(queue.enable_notifications());
      CHECK(driver.available_event() == queue.save().next_available);
      ChainBuilder(guest).readable("x").submit(driver);
      CHECK(driver.should_kick());
      // A second one, before the device has looked, needs no second notification.
      ChainBuilder(guest).readable("y").submit(driver);
      CHECK_FALSE(driver.should_kick());
      CHECK(queue.enable_notifications());
      queue.push(pop_one(queue), 0);
      queue.push(pop_one(queue), 0);
      CHECK(driver.take_used());
      CHECK(driver.take_used());
      CHECK(driver.used_flags() == 0);  // 2.7.10.1: zero with EVENT_IDX
    }
  }
}

TEST_CASE("with EVENT_IDX suppression leaves the flags alone") {
  FakeGuest guest;
  DriverQueue driver(guest, 8, kEvents);
  Queue queue = driver.device_queue();
  queue.disable_notifications();
  CHECK(driver.used_flags() == 0);
}

TEST_CASE("2^16 elements without a question end in one notification") {
  FakeGuest guest;
  DriverQueue driver(guest, 1, kEvents);
  Queue queue = driver.device_queue();
  driver.set_used_event(40000);
  for (int i = 0; i < 65536; ++i) {
    driver.write_descriptor(0, {0x1000ULL, 1U, std::uint16_t{0}, std::uint16_t{0}});
    driver.make_available(0);
    queue.push(pop_one(queue), 0);
  }
  CHECK(queue.should_notify());
  CHECK_FALSE(queue.should_notify());
}

TEST_CASE("a saved queue goes on where it was") {
  FakeGuest guest;
  DriverQueue driver(guest, 8);
  Queue before = driver.device_queue();
  ChainBuilder(guest).readable("first").submit(driver);
  before.push(pop_one(before), 0);
  const auto second = ChainBuilder(guest).readable("second").submit(driver);

  Queue after = driver.device_queue();
  after.restore(before.save());
  Chain chain = pop_one(after);
  CHECK(chain.head() == second);
  CHECK(read_all(chain) == "second");
  after.push(std::move(chain), 0);
  CHECK(driver.take_used());
  CHECK(driver.take_used()->id == second);
}

TEST_CASE("a default queue is not ready") {
  const Queue queue;
  CHECK_FALSE(queue.ready());
}
