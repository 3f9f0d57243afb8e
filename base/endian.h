// Little-endian integers for structures that cross to the guest.
#pragma once

#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace mayfly::base {

// An unsigned integer stored little-endian, whatever the host's byte order. Reads and writes convert.
template <std::unsigned_integral T>
class LittleEndian {
 public:
  constexpr LittleEndian() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a wire field is used like the integer it holds.
  constexpr LittleEndian(T value) : raw_(convert(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr operator T() const { return convert(raw_); }

 private:
  static constexpr T convert(T value) {
    if constexpr (std::endian::native == std::endian::little) {
      return value;
    } else {
      return std::byteswap(value);
    }
  }
  T raw_ = 0;
};

using Le16 = LittleEndian<std::uint16_t>;
using Le32 = LittleEndian<std::uint32_t>;
using Le64 = LittleEndian<std::uint64_t>;

// A type that may be copied byte for byte to or from a guest: no padding (its bytes would leak ours), no
// pointers' worth of meaning, any bit pattern a value.
template <typename T>
concept Wire = std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> &&
    std::has_unique_object_representations_v<T>;

}  // namespace mayfly::base
