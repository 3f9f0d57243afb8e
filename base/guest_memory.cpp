#include "base/guest_memory.h"

#include <sys/mman.h>

#include <algorithm>

namespace mayfly::base {

Result<GuestMemory> GuestMemory::create(std::span<const Range> ranges, Pages pages) {
  constexpr std::uint64_t kPageSize = 4096;
  std::vector<Region> regions;
  std::uint64_t end_of_last = 0;
  for (const Range& range : ranges) {
    const auto end = range.start.checked_add(range.size);
    if (!end || range.size == 0 || range.size % kPageSize != 0 || !range.start.is_aligned(kPageSize)) {
      return fail("guest memory range {:#x} + {:#x} is empty, not page-aligned or overflows",
                  range.start.value(), range.size);
    }
    if (range.start.value() < end_of_last) {
      return fail("guest memory range {:#x} + {:#x} overlaps the one before it, which ends at {:#x}",
                  range.start.value(), range.size, end_of_last);
    }
    end_of_last = end->value();
    regions.push_back({range.start, TRY(Mapping::anonymous(range.size, pages))});
  }
  return GuestMemory(std::move(regions));
}

std::byte* GuestMemory::find(GuestAddress address, std::uint64_t length) const {
  for (const Region& region : regions_) {
    if (address < region.start) continue;
    const std::uint64_t offset = address.value() - region.start.value();
    const std::uint64_t size = region.mapping.size();
    if (offset <= size && length <= size - offset) return region.mapping.data() + offset;
  }
  return nullptr;
}

bool GuestMemory::contains(GuestAddress address, std::uint64_t length) const {
  return find(address, length) != nullptr;
}

Result<std::span<std::byte>> GuestMemory::slice(GuestAddress address, std::uint64_t length) const {
  std::byte* place = find(address, length);
  if (place == nullptr) {
    return fail("guest range {:#x} + {:#x} is not inside one region of guest memory", address.value(),
                length);
  }
  return std::span(place, length);
}

Status GuestMemory::write_bytes(GuestAddress address, std::span<const std::byte> source) const {
  const std::span<std::byte> bytes = TRY(slice(address, source.size()));
  if (!source.empty()) std::memcpy(bytes.data(), source.data(), source.size());
  return {};
}

Result<GuestAtomic16> GuestMemory::atomic16(GuestAddress address) const {
  if (!address.is_aligned(2)) return fail("guest address {:#x} is odd", address.value());
  const std::span<std::byte> bytes = TRY(slice(address, sizeof(std::uint16_t)));
  return GuestAtomic16(reinterpret_cast<std::uint16_t*>(bytes.data()));
}

void GuestMemory::advise_huge_pages(GuestAddress address, std::uint64_t length) const {
  constexpr std::uint64_t kHugePage = 2U << 20U;
  for (const Region& region : regions_) {
    if (address < region.start) continue;
    const std::uint64_t offset = address.value() - region.start.value();
    const std::uint64_t size = region.mapping.size();
    if (offset > size || length > size - offset) continue;
    const std::uint64_t start = offset / kHugePage * kHugePage;
    const std::uint64_t end = std::min((offset + length + kHugePage - 1) / kHugePage * kHugePage, size);
    // A host without transparent huge pages refuses; that costs time, nothing else.
    ::madvise(region.mapping.data() + start, end - start, MADV_HUGEPAGE);
  }
}

std::uint64_t GuestMemory::total_size() const {
  std::uint64_t sum = 0;
  for (const Region& region : regions_) sum += region.mapping.size();
  return sum;
}

}  // namespace mayfly::base
