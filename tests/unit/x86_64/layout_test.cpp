#include "vmm/x86_64/layout.h"

#include <bit>
#include <catch2/catch.hpp>

#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {

using test::make_memory;

TEST_CASE("memory lies below the gap, and the rest above it") {
  for (const std::uint64_t size :
       {kMib, 16 * kMib, 128 * kMib, 3 * kGib, 3 * kGib + kPageSize, 4 * kGib, 64 * kGib, kMostMemory}) {
    INFO("size " << size);
    const auto ranges = memory_ranges(size);
    REQUIRE(ranges.has_value());
    CHECK(ranges->size() == (size > 3 * kGib ? 2 : 1));
    CHECK(ranges->front().start == GuestAddress(0));
    CHECK(ranges->front().start.value() + ranges->front().size <= kGapStart.value());
    std::uint64_t sum = 0;
    for (const auto& range : *ranges) sum += range.size;
    CHECK(sum == size);
    if (ranges->size() == 2) CHECK(ranges->back().start == kGapEnd);
  }
}

TEST_CASE("sizes that no machine can have are refused") {
  for (const std::uint64_t size : {std::uint64_t{0}, kPageSize, kMib - kPageSize, kMib + 1,
                                   kMostMemory + kPageSize, ~std::uint64_t{0}}) {
    INFO("size " << size);
    CHECK_FALSE(memory_ranges(size).has_value());
  }
}

TEST_CASE("the memory map is all of memory but 640 KiB to 1 MiB, ascending and apart") {
  for (const std::uint64_t size :
       {kMib, kMib + kPageSize, 16 * kMib, 3 * kGib, 3 * kGib + kPageSize, 64 * kGib, kMostMemory}) {
    INFO("size " << size);
    const GuestMemory memory = make_memory(size);
    const auto map = memory_map(memory);
    std::uint64_t end = 0;
    std::uint64_t sum = 0;
    for (const MemoryMapEntry& entry : map) {
      CHECK(entry.size > 0);
      CHECK(entry.start.value() >= end);
      CHECK(memory.contains(entry.start, entry.size));
      end = entry.start.value() + entry.size;
      sum += entry.size;
    }
    CHECK(sum == size - 384 * kKib);
    REQUIRE(map.size() >= 2);
    CHECK(map.at(0).start == GuestAddress(0));
    CHECK(map.at(0).size == kMpTable.value());
    CHECK(map.at(0).type == MemoryType::kRam);
    CHECK(map.at(1).start == kMpTable);
    CHECK(map.at(1).type == MemoryType::kReserved);
    for (std::size_t i = 2; i < map.size(); ++i) CHECK(map.at(i).type == MemoryType::kRam);
    CHECK(map.size() == (size > 3 * kGib ? 4 : size > kMib ? 3 : 2));
    if (size > 3 * kGib) CHECK(map.at(3).start == kGapEnd);
  }
}

TEST_CASE("memory can be backed by large pages") {
  GuestMemory memory = make_memory(3 * kGib + 8 * kMib);
  for (const auto& region : memory.regions()) {
    CHECK(std::bit_cast<std::uintptr_t>(region.mapping.data()) % (2 * kMib) == 0);
  }
  // Advice about any range is harmless: what was written stays, what was not is zero.
  REQUIRE(memory.write(GuestAddress(16 * kMib), std::uint8_t{7}).has_value());
  memory.advise_huge_pages(GuestAddress(16 * kMib - 1), 3 * kMib);
  memory.advise_huge_pages(GuestAddress(4 * kGib), 8 * kMib);
  memory.advise_huge_pages(GuestAddress(4 * kGib), 8 * kMib + 1);
  memory.advise_huge_pages(GuestAddress(5 * kGib), 1);
  memory.advise_huge_pages(GuestAddress(~std::uint64_t{0}), ~std::uint64_t{0});
  CHECK(*memory.read<std::uint8_t>(GuestAddress(16 * kMib)) == 7);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(16 * kMib + 1)) == 0);
}

TEST_CASE("fixed places do not overlap") {
  struct Place {
    GuestAddress start;
    std::uint64_t size;
  };
  const Place places[] = {{kGdt, 48},
                          {kZeroPage, kPageSize},
                          {kBootStack.unchecked_add(0), 0},
                          {kPageTables, 6 * kPageSize},
                          {kCommandLine, kCommandLineSize},
                          {kMpTable, kMpTableSize},
                          {kHighMemory, 0},
                          {kBootTimer, kBootTimerSize},
                          {kVirtioMmio, kMostVirtioDevices * kVirtioMmioSize},
                          {kIoapic, kPageSize},
                          {kLapic, kPageSize},
                          {kKvmIdentityMap, kPageSize},
                          {kKvmTss, 3 * kPageSize}};
  std::uint64_t end = 0;
  for (const Place& place : places) {
    CHECK(place.start.value() >= end);
    end = place.start.value() + place.size;
  }
  CHECK(end <= kGapEnd.value());
  CHECK(kBootTimer >= kGapStart);
  CHECK(virtio_mmio_address(0) == GuestAddress(0xc0001000));
  CHECK(virtio_mmio_address(18) == GuestAddress(0xc0013000));
  CHECK(virtio_mmio_gsi(0) == 5);
  CHECK(virtio_mmio_gsi(kMostVirtioDevices - 1) == 23);
}

}  // namespace mayfly::vmm::x86_64
