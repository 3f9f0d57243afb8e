// The one door to guest memory.
//
// The guest writes to this memory at any time, from other threads. Hence the rules for every user:
//  - fetch a value once into host memory and decide on the copy, never look at it twice;
//  - ring indices go through GuestAtomic16, nothing else gives an ordering;
//  - a span from slice() is for moving bytes only; nothing read through it may be trusted to stay the same.
#pragma once

#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "base/endian.h"
#include "base/mapping.h"
#include "base/result.h"

namespace mayfly::base {

// A guest physical address. It has no operators but comparison: arithmetic on a number that a guest chose
// is checked, or says that it is not.
class GuestAddress {
 public:
  constexpr GuestAddress() = default;
  constexpr explicit GuestAddress(std::uint64_t value) : value_(value) {}
  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  [[nodiscard]] constexpr std::optional<GuestAddress> checked_add(std::uint64_t n) const {
    std::uint64_t sum = 0;
    if (__builtin_add_overflow(value_, n, &sum)) return std::nullopt;
    return GuestAddress(sum);
  }
  // For sums that were proved not to overflow.
  [[nodiscard]] constexpr GuestAddress unchecked_add(std::uint64_t n) const {
    return GuestAddress(value_ + n);
  }
  [[nodiscard]] constexpr bool is_aligned(std::uint64_t power_of_two) const {
    return (value_ & (power_of_two - 1)) == 0;
  }
  constexpr auto operator<=>(const GuestAddress&) const = default;

 private:
  std::uint64_t value_ = 0;
};

// A 16-bit little-endian number in guest memory that host and guest both touch.
class GuestAtomic16 {
 public:
  explicit GuestAtomic16(std::uint16_t* place) : place_(place) {}
  // Acquire: what the guest wrote before it stored this number is seen after the load.
  [[nodiscard]] std::uint16_t load_acquire() const {
    return little_endian(std::atomic_ref(*place_).load(std::memory_order_acquire));
  }
  [[nodiscard]] std::uint16_t load_relaxed() const {
    return little_endian(std::atomic_ref(*place_).load(std::memory_order_relaxed));
  }
  // Release: what we wrote before the store is seen by a guest that saw this number.
  void store_release(std::uint16_t value) {
    std::atomic_ref(*place_).store(little_endian(value), std::memory_order_release);
  }
  void store_relaxed(std::uint16_t value) {
    std::atomic_ref(*place_).store(little_endian(value), std::memory_order_relaxed);
  }

 private:
  static std::uint16_t little_endian(std::uint16_t value) {
    return std::bit_cast<std::uint16_t>(Le16(value));
  }
  std::uint16_t* place_;
};

// RAM of one virtual machine: a few regions that do not overlap. Immutable after create(); the bytes behind
// it are not. May be used from any thread.
class GuestMemory {
 public:
  struct Range {
    GuestAddress start;
    std::uint64_t size = 0;  // bytes; a multiple of the page size, > 0
  };
  struct Region {
    GuestAddress start;
    Mapping mapping;
  };

  // Allocates the ranges, which must be in ascending order and not overlap.
  static Result<GuestMemory> create(std::span<const Range> ranges, Pages pages = Pages::kNormal);

  // The host bytes behind [address, address + length), which must lie within one region. An empty range is
  // valid anywhere inside a region or at its end.
  [[nodiscard]] Result<std::span<std::byte>> slice(GuestAddress address, std::uint64_t length) const;

  // True where slice() would succeed; builds no error text, for use on hot paths.
  [[nodiscard]] bool contains(GuestAddress address, std::uint64_t length) const;

  // One fetch into a copy.
  template <Wire T>
  [[nodiscard]] Result<T> read(GuestAddress address) const {
    const std::span<std::byte> bytes = TRY(slice(address, sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  template <Wire T>
  [[nodiscard]] Status write(GuestAddress address, const T& value) const {
    const std::span<std::byte> bytes = TRY(slice(address, sizeof(T)));
    std::memcpy(bytes.data(), &value, sizeof(T));
    return {};
  }

  [[nodiscard]] Status write_bytes(GuestAddress address, std::span<const std::byte> source) const;

  // The address must be even.
  [[nodiscard]] Result<GuestAtomic16> atomic16(GuestAddress address) const;

  // Advice to the host: the range is about to be filled, so give it 2 MiB pages where they lie in a region.
  void advise_huge_pages(GuestAddress address, std::uint64_t length) const;

  [[nodiscard]] std::span<const Region> regions() const { return regions_; }
  [[nodiscard]] std::uint64_t total_size() const;

 private:
  explicit GuestMemory(std::vector<Region> regions) : regions_(std::move(regions)) {}
  [[nodiscard]] std::byte* find(GuestAddress address, std::uint64_t length) const;
  std::vector<Region> regions_;
};

}  // namespace mayfly::base
