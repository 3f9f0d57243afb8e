#include "vmm/bus.h"

#include <algorithm>

namespace mayfly::vmm {

base::Status Bus::add(std::uint64_t start, std::uint64_t size, std::string_view device_name,
                      BusDevice& device) {
  std::uint64_t last = 0;
  if (size == 0 || __builtin_add_overflow(start, size - 1, &last)) {
    return base::fail("{} range {:#x} + {:#x} of {} is empty or overflows", name_, start, size, device_name);
  }
  // The first entry that starts after the new range, and so the only ones that may overlap are before it.
  const auto next = std::upper_bound(entries_.begin(), entries_.end(), last,
                                     [](std::uint64_t end, const Entry& entry) { return end < entry.start; });
  if (next != entries_.begin()) {
    const Entry& before = *std::prev(next);
    if (before.last >= start) {
      return base::fail("{} range {:#x}-{:#x} of {} overlaps {:#x}-{:#x} of {}", name_, start, last,
                        device_name, before.start, before.last, before.name);
    }
  }
  entries_.insert(next, Entry{start, last, std::string(device_name), &device});
  return {};
}

const Bus::Entry* Bus::find(std::uint64_t address, std::size_t length) const {
  auto after = std::upper_bound(entries_.begin(), entries_.end(), address,
                                [](std::uint64_t at, const Entry& entry) { return at < entry.start; });
  if (after == entries_.begin()) return nullptr;
  const Entry& entry = *std::prev(after);
  if (length == 0 || address > entry.last || length - 1 > entry.last - address) return nullptr;
  return &entry;
}

void Bus::read(std::uint64_t address, std::span<std::byte> out) {
  if (const Entry* entry = find(address, out.size())) {
    entry->device->read(address - entry->start, out);
    return;
  }
  std::fill(out.begin(), out.end(), std::byte{0xff});
  ++unmapped_reads_;
  if (unmapped_log_.allow()) {
    base::log::debug("guest reads {} bytes at unmapped {} {:#x}", out.size(), name_, address);
  }
}

void Bus::write(std::uint64_t address, std::span<const std::byte> in) {
  if (const Entry* entry = find(address, in.size())) {
    entry->device->write(address - entry->start, in);
    return;
  }
  ++unmapped_writes_;
  if (unmapped_log_.allow()) {
    base::log::debug("guest writes {} bytes to unmapped {} {:#x}", in.size(), name_, address);
  }
}

}  // namespace mayfly::vmm
