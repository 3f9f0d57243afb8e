#include <catch2/catch.hpp>

#include <array>
#include <limits>
#include <vector>

#include "base/guest_memory.h"

using namespace mayfly::base;

namespace {

constexpr std::uint64_t kMib = 1U << 20U;
constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

GuestMemory two_regions() {
  const std::array ranges = {GuestMemory::Range{GuestAddress(0), kMib},
                             GuestMemory::Range{GuestAddress(4 * kMib), kMib}};
  auto memory = GuestMemory::create(ranges);
  REQUIRE(memory.has_value());
  return std::move(*memory);
}

bool creates(std::vector<GuestMemory::Range> ranges) {
  return GuestMemory::create(ranges).has_value();
}

}  // namespace

TEST_CASE("address arithmetic is checked") {
  CHECK(GuestAddress(1).checked_add(2) == GuestAddress(3));
  CHECK(GuestAddress(kMax).checked_add(0) == GuestAddress(kMax));
  CHECK_FALSE(GuestAddress(kMax).checked_add(1).has_value());
  CHECK_FALSE(GuestAddress(1).checked_add(kMax).has_value());
}

TEST_CASE("ranges that make no sense are refused") {
  CHECK(creates({}));
  CHECK_FALSE(creates({{GuestAddress(0), 0}}));
  CHECK_FALSE(creates({{GuestAddress(0), 4095}}));
  CHECK_FALSE(creates({{GuestAddress(1), 4096}}));
  CHECK_FALSE(creates({{GuestAddress(kMax - 4095), 8192}}));
  CHECK_FALSE(creates({{GuestAddress(0), 8192}, {GuestAddress(4096), 4096}}));
  CHECK_FALSE(creates({{GuestAddress(8192), 4096}, {GuestAddress(0), 4096}}));
  CHECK(creates({{GuestAddress(0), 4096}, {GuestAddress(4096), 4096}}));
}

TEST_CASE("slice gives exactly what lies inside one region") {
  const GuestMemory memory = two_regions();
  CHECK(memory.slice(GuestAddress(0), kMib)->size() == kMib);
  CHECK(memory.slice(GuestAddress(kMib - 1), 1).has_value());
  CHECK(memory.slice(GuestAddress(kMib), 0).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(kMib), 1).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(0), kMib + 1).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(2 * kMib), 1).has_value());
  CHECK(memory.slice(GuestAddress(5 * kMib - 8), 8).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(5 * kMib - 8), 9).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(4 * kMib), kMax).has_value());
  CHECK_FALSE(memory.slice(GuestAddress(kMax), kMax).has_value());
  CHECK_THAT(memory.slice(GuestAddress(0x200000), 0x10).error().message, Catch::Contains("0x200000 + 0x10"));
}

TEST_CASE("a range over two adjacent regions is not inside one") {
  const std::array ranges = {GuestMemory::Range{GuestAddress(0), 4096},
                             GuestMemory::Range{GuestAddress(4096), 4096}};
  const auto memory = GuestMemory::create(ranges);
  REQUIRE(memory.has_value());
  CHECK_FALSE(memory->contains(GuestAddress(4095), 2));
  CHECK(memory->contains(GuestAddress(4096), 4096));
}

TEST_CASE("objects are read and written little-endian") {
  const GuestMemory memory = two_regions();
  REQUIRE(memory.write(GuestAddress(16), Le32(0x11223344)).has_value());
  CHECK(*memory.read<std::uint8_t>(GuestAddress(16)) == 0x44);
  CHECK(*memory.read<Le32>(GuestAddress(16)) == 0x11223344U);
  CHECK_FALSE(memory.read<Le64>(GuestAddress(kMib - 7)).has_value());
  CHECK_FALSE(memory.write(GuestAddress(kMib - 3), Le32(1)).has_value());
  CHECK(*memory.read<std::uint8_t>(GuestAddress(kMib - 3)) == 0);  // nothing was written in part
}

TEST_CASE("a ring index must be even and inside") {
  const GuestMemory memory = two_regions();
  CHECK_FALSE(memory.atomic16(GuestAddress(1)).has_value());
  CHECK_FALSE(memory.atomic16(GuestAddress(kMib)).has_value());
  auto index = memory.atomic16(GuestAddress(2));
  REQUIRE(index.has_value());
  index->store_release(0xabcd);
  CHECK(index->load_acquire() == 0xabcd);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(2)) == 0xcd);
}

TEST_CASE("regions of 64 GiB cost nothing until touched") {
  const std::array ranges = {GuestMemory::Range{GuestAddress(0), 3U * 1024 * kMib},
                             GuestMemory::Range{GuestAddress(4U * 1024 * kMib), 61ULL * 1024 * kMib}};
  const auto memory = GuestMemory::create(ranges);
  REQUIRE(memory.has_value());
  CHECK(memory->total_size() == 64ULL * 1024 * kMib);
  CHECK(memory->write(GuestAddress(65ULL * 1024 * kMib - 8), Le64(7)).has_value());
}
