// The split virtqueue against drivers that break it: one test for each way.
#include <catch2/catch.hpp>

#include "tests/support/virtio_driver.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using test::ChainBuilder;
using test::DriverQueue;
using test::FakeGuest;
using test::kIndirect;
using test::kNext;
using test::kWrite;
using test::RawDescriptor;

namespace {

constexpr std::uint16_t kSize = 8;

// A queue of eight, with a page of data to point at.
struct Bench {
  FakeGuest guest;
  DriverQueue driver{guest, kSize};
  Queue queue = driver.device_queue();
  std::uint64_t data = guest.allocate(4096).value();

  void descriptor(std::uint16_t index, std::uint64_t address, std::uint32_t length, unsigned flags,
                  unsigned next = 0) {
    driver.write_descriptor(
        index, {address, length, static_cast<std::uint16_t>(flags), static_cast<std::uint16_t>(next)});
  }
  // A table of these descriptors in guest memory, and descriptor 0 that refers to it.
  void indirect(std::vector<RawDescriptor> entries, unsigned flags = kIndirect) {
    const GuestAddress table = guest.allocate(16 * entries.size());
    for (std::size_t i = 0; i < entries.size(); ++i) guest.store(table.unchecked_add(16 * i), entries[i]);
    descriptor(0, table.value(), static_cast<std::uint32_t>(16 * entries.size()), flags);
  }
  // Makes descriptor 0 available; the device must find the queue broken, for these words, and for ever.
  void require_broken(const std::string& words, std::uint16_t head = 0) {
    driver.make_available(head);
    require_broken_now(words);
  }
  void require_broken_now(const std::string& words) {
    const auto popped = queue.pop();
    REQUIRE_FALSE(popped);
    CHECK_THAT(popped.error().message, Catch::Contains(words));
    CHECK_FALSE(queue.pop());
    CHECK(driver.used_index() == 0);
  }
};

RawDescriptor raw(std::uint64_t address, std::uint32_t length, unsigned flags, unsigned next = 0) {
  return {address, length, static_cast<std::uint16_t>(flags), static_cast<std::uint16_t>(next)};
}

// A layout that is right, for tests to spoil.
struct Layout {
  FakeGuest guest;
  QueueLayout layout = DriverQueue(guest, 16).layout();

  void require_refused(const std::string& words) {
    const auto queue = Queue::create(guest.memory(), layout, kFeatureVersion1);
    REQUIRE_FALSE(queue);
    CHECK_THAT(queue.error().message, Catch::Contains(words));
  }
};

}  // namespace

// ---- Where the rings are ----

TEST_CASE("layout: size zero") {
  Layout l;
  l.layout.size = 0;
  l.require_refused("not a power of two");
}

TEST_CASE("layout: size not a power of two") {
  Layout l;
  l.layout.size = 12;
  l.require_refused("not a power of two");
}

TEST_CASE("layout: size beyond 32768") {
  Layout l;
  l.layout.size = 40000;
  l.require_refused("not a power of two up to 32768");
}

TEST_CASE("layout: descriptor table misaligned") {
  Layout l;
  l.layout.descriptor_table = GuestAddress(0x10008);
  l.require_refused("not aligned to 16");
}

TEST_CASE("layout: available ring misaligned") {
  Layout l;
  l.layout.available_ring = GuestAddress(0x10001);
  l.require_refused("not aligned to 2");
}

TEST_CASE("layout: used ring misaligned") {
  Layout l;
  l.layout.used_ring = GuestAddress(0x10002);
  l.require_refused("not aligned to 4");
}

TEST_CASE("layout: descriptor table outside memory") {
  Layout l;
  l.layout.descriptor_table = GuestAddress(0x80000000);
  l.require_refused("descriptor table");
}

TEST_CASE("layout: descriptor table ends a byte too late") {
  Layout l;
  l.layout.descriptor_table = GuestAddress(l.guest.low_size() - 16 * 16 + 16);
  l.require_refused("not inside guest memory");
}

TEST_CASE("layout: available ring's event index outside memory") {
  Layout l;
  l.layout.available_ring = GuestAddress(l.guest.low_size() - 4 - 2 * 16);
  l.require_refused("available ring");
}

TEST_CASE("layout: used ring's event index outside memory") {
  Layout l;
  l.layout.used_ring = GuestAddress(l.guest.low_size() - 4 - 8 * 16);
  l.require_refused("used ring");
}

TEST_CASE("layout: areas that end at the last byte of memory are right") {
  Layout l;
  l.layout.used_ring = GuestAddress(l.guest.low_size() - 8 - 8 * 16);
  CHECK(Queue::create(l.guest.memory(), l.layout, kFeatureVersion1));
}

TEST_CASE("layout: an area whose end overflows") {
  Layout l;
  l.layout.descriptor_table = GuestAddress(~0ULL - 15);
  l.require_refused("not inside guest memory");
}

TEST_CASE("layout: areas that overlap") {
  Layout l;
  SECTION("used ring in descriptor table") {
    l.layout.used_ring = l.layout.descriptor_table.unchecked_add(240);
    l.require_refused("overlaps");
  }
  SECTION("available ring in descriptor table") {
    l.layout.available_ring = l.layout.descriptor_table.unchecked_add(254);
    l.require_refused("overlaps");
  }
  SECTION("available ring ends in used ring") {
    l.layout.available_ring = GuestAddress(0x20000);
    l.layout.used_ring = GuestAddress(0x20000 + 4 + 2 * 16);
    l.require_refused("overlaps");
  }
  SECTION("both rings at the same place") {
    l.layout.available_ring = l.layout.used_ring;
    l.require_refused("overlaps");
  }
  SECTION("side by side is right") {
    l.layout.available_ring = GuestAddress(0x20000);
    l.layout.used_ring = GuestAddress(0x20000 + 8 + 2 * 16);
    CHECK(Queue::create(l.guest.memory(), l.layout, kFeatureVersion1));
  }
}

// ---- The available ring ----

TEST_CASE("available index too far ahead") {
  Bench b;
  b.driver.set_available_index(kSize + 1);
  b.require_broken_now("ahead");
}

TEST_CASE("available index went backwards") {
  Bench b;
  b.driver.set_available_index(0xffff);
  b.require_broken_now("ahead");
}

TEST_CASE("available index as far ahead as the queue is long is right") {
  Bench b;
  b.descriptor(0, b.data, 1, 0);
  b.driver.set_available_index(kSize);
  for (int i = 0; i < kSize; ++i) b.queue.push(std::move(*b.queue.pop().value()), 0);
  CHECK_FALSE(b.queue.pop().value());
}

TEST_CASE("head index outside the table") {
  Bench b;
  b.require_broken("descriptor index 8 in a table of 8", kSize);
}

TEST_CASE("head index of all ones") {
  Bench b;
  b.require_broken("descriptor index", 0xffff);
}

// ---- Chains ----

TEST_CASE("next index outside the table") {
  Bench b;
  b.descriptor(0, b.data, 1, kNext, kSize);
  b.require_broken("descriptor index");
}

TEST_CASE("a descriptor that is its own successor") {
  Bench b;
  b.descriptor(0, b.data, 1, kNext, 0);
  b.require_broken("or a loop");
}

TEST_CASE("a loop over two descriptors of no length") {
  Bench b;
  b.descriptor(0, b.data, 0, kNext, 1);
  b.descriptor(1, b.data, 0, kNext, 0);
  b.require_broken("or a loop");
}

TEST_CASE("a loop of writable descriptors") {
  Bench b;
  b.descriptor(0, b.data, 1, kNext | kWrite, 1);
  b.descriptor(1, b.data, 1, kNext | kWrite, 0);
  b.require_broken("or a loop");
}

TEST_CASE("a readable descriptor after a writable one") {
  Bench b;
  b.descriptor(0, b.data, 1, kNext | kWrite, 1);
  b.descriptor(1, b.data, 1, 0);
  b.require_broken("readable descriptor after a writable one");
}

TEST_CASE("a buffer outside memory") {
  Bench b;
  b.descriptor(0, 0x8'0000'0000ULL, 1, 0);
  b.require_broken("not inside one region");
}

TEST_CASE("a buffer that ends a byte after memory") {
  Bench b;
  b.descriptor(0, b.guest.low_size() - 4, 5, 0);
  b.require_broken("not inside one region");
}

TEST_CASE("a buffer whose end overflows") {
  Bench b;
  b.descriptor(0, ~0ULL - 3, 16, 0);
  b.require_broken("not inside one region");
}

TEST_CASE("a buffer over the hole between two regions") {
  Bench b;
  b.descriptor(0, FakeGuest::kHighStart - 8, 16, 0);
  b.require_broken("not inside one region");
}

TEST_CASE("a chain of 2^32 bytes") {
  Bench b;
  FakeGuest big(1ULL << 31U);
  DriverQueue driver(big, 4);
  Queue queue = driver.device_queue();
  driver.write_descriptor(0, raw(0, 0x80000000U, kWrite | kNext, 1));
  driver.write_descriptor(1, raw(0, 0x80000000U, kWrite));
  driver.make_available(0);
  const auto popped = queue.pop();
  REQUIRE_FALSE(popped);
  CHECK_THAT(popped.error().message, Catch::Contains("a chain of 4294967296 bytes"));
}

// ---- Indirect tables ----

TEST_CASE("an indirect descriptor that was not negotiated") {
  FakeGuest guest;
  DriverQueue driver(guest, kSize, kFeatureVersion1);
  Queue queue = driver.device_queue();
  ChainBuilder(guest).readable("x").submit_indirect(driver);
  const auto popped = queue.pop();
  REQUIRE_FALSE(popped);
  CHECK_THAT(popped.error().message, Catch::Contains("not negotiated"));
}

TEST_CASE("an indirect descriptor with NEXT") {
  Bench b;
  b.indirect({raw(b.data, 1, 0)}, kIndirect | kNext);
  b.require_broken("both INDIRECT and NEXT");
}

TEST_CASE("an indirect descriptor inside an indirect table") {
  Bench b;
  b.indirect({raw(b.data, 16, kIndirect)});
  b.require_broken("inside an indirect table");
}

TEST_CASE("an indirect table that refers to itself") {
  Bench b;
  const GuestAddress table = b.guest.allocate(16);
  b.guest.store(table, raw(table.value(), 16, kIndirect));
  b.descriptor(0, table.value(), 16, kIndirect);
  b.require_broken("inside an indirect table");
}

TEST_CASE("an indirect table of no length") {
  Bench b;
  b.descriptor(0, b.data, 0, kIndirect);
  b.require_broken("an indirect table of 0 bytes");
}

TEST_CASE("an indirect table that is not whole descriptors") {
  Bench b;
  b.descriptor(0, b.data, 24, kIndirect);
  b.require_broken("an indirect table of 24 bytes");
}

TEST_CASE("an indirect table of more than 32768 descriptors") {
  Bench b;
  b.descriptor(0, b.data, 16 * 32769, kIndirect);
  b.require_broken("an indirect table of");
}

TEST_CASE("an indirect table of 2^32 - 16 bytes") {
  Bench b;
  b.descriptor(0, b.data, 0xfffffff0U, kIndirect);
  b.require_broken("an indirect table of");
}

TEST_CASE("an indirect table outside memory") {
  Bench b;
  b.descriptor(0, b.guest.low_size() - 16, 32, kIndirect);
  b.require_broken("not inside one region");
}

TEST_CASE("an indirect table whose end overflows") {
  Bench b;
  b.descriptor(0, ~0ULL - 15, 32, kIndirect);
  b.require_broken("not inside one region");
}

TEST_CASE("next index outside an indirect table") {
  Bench b;
  b.indirect({raw(b.data, 1, kNext, 1)});
  b.require_broken("descriptor index 1 in a table of 1");
}

TEST_CASE("a loop in an indirect table") {
  Bench b;
  b.indirect({raw(b.data, 1, kNext, 1), raw(b.data, 1, kNext, 0)});
  b.require_broken("or a loop");
}

TEST_CASE("an indirect chain longer than the queue") {
  Bench b;
  std::vector<RawDescriptor> entries;
  for (unsigned i = 0; i < kSize + 1; ++i) entries.push_back(raw(b.data, 1, i < kSize ? kNext : 0, i + 1));
  b.indirect(entries);
  b.require_broken("a chain of more than 8 descriptors");
}

TEST_CASE("ordinary and indirect descriptors that are too many together") {
  Bench b;
  std::vector<RawDescriptor> entries;
  for (unsigned i = 0; i < kSize; ++i) entries.push_back(raw(b.data, 1, i + 1 < kSize ? kNext : 0, i + 1));
  const GuestAddress table = b.guest.allocate(std::size_t{16} * kSize);
  for (std::size_t i = 0; i < entries.size(); ++i) b.guest.store(table.unchecked_add(16 * i), entries[i]);
  b.descriptor(0, b.data, 1, kNext, 1);
  b.descriptor(1, table.value(), 16 * kSize, kIndirect);
  b.require_broken("a chain of more than 8 descriptors");
}

TEST_CASE("a readable descriptor in a table after a writable one before it") {
  Bench b;
  const GuestAddress table = b.guest.allocate(16);
  b.guest.store(table, raw(b.data, 1, 0));
  b.descriptor(0, b.data, 1, kNext | kWrite, 1);
  b.descriptor(1, table.value(), 16, kIndirect);
  b.require_broken("readable descriptor after a writable one");
}

TEST_CASE("a broken queue leaves the chains before the break served") {
  Bench b;
  b.descriptor(0, b.data, 1, 0);
  b.descriptor(1, b.data, 1, kNext, 1);
  b.driver.make_available(0);
  b.driver.make_available(1);
  b.queue.push(std::move(*b.queue.pop().value()), 0);
  CHECK_FALSE(b.queue.pop());
  CHECK(b.driver.take_used()->id == 0);
  CHECK_FALSE(b.driver.take_used());
}
