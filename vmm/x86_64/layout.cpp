#include "vmm/x86_64/layout.h"

#include <algorithm>

namespace mayfly::vmm::x86_64 {

base::Result<std::vector<GuestMemory::Range>> memory_ranges(std::uint64_t bytes) {
  if (bytes < kLeastMemory || bytes > kMostMemory || bytes % kPageSize != 0) {
    return base::fail("a machine cannot have {} bytes of memory: {} to {} MiB, in whole pages", bytes,
                      kLeastMemory / kMib, kMostMemory / kMib);
  }
  const std::uint64_t low = std::min(bytes, kGapStart.value());
  std::vector<GuestMemory::Range> ranges = {{GuestAddress(0), low}};
  if (bytes > low) ranges.push_back({kGapEnd, bytes - low});
  return ranges;
}

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map;
  for (const GuestMemory::Region& region : memory.regions()) {
    const std::uint64_t start = region.start.value();
    const std::uint64_t end = start + region.mapping.size();
    if (start != 0) {
      map.push_back({region.start, end - start, MemoryType::kRam});
      continue;
    }
    // From 640 KiB to 1 MiB a PC has display memory and ROMs. There is RAM behind it here, never mentioned.
    map.push_back({region.start, std::min(end, kMpTable.value()), MemoryType::kRam});
    if (end >= kBaseMemoryEnd.value()) {
      map.push_back({kMpTable, kBaseMemoryEnd.value() - kMpTable.value(), MemoryType::kReserved});
    }
    if (end > kHighMemory.value()) {
      map.push_back({kHighMemory, end - kHighMemory.value(), MemoryType::kRam});
    }
  }
  return map;
}

}  // namespace mayfly::vmm::x86_64
