// A fuzzer's input, taken apart from the front. Past its end everything is zero.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <utility>

#include "base/endian.h"

namespace mayfly::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  template <base::Wire T>
  T take() {
    T value{};
    const std::size_t n = std::min(sizeof(T), bytes_.size());
    if (n > 0) std::memcpy(&value, bytes_.data(), n);
    bytes_ = bytes_.subspan(n);
    return value;
  }
  std::uint8_t byte() { return take<std::uint8_t>(); }
  // A number that is often small, often at a border, and may be anything.
  std::uint64_t number() {
    const std::uint8_t kind = byte();
    switch (kind >> 5U) {
      case 0:
        return kind & 31U;
      case 1:
        return byte();
      case 2:
        return take<std::uint16_t>();
      case 3:
        return take<std::uint32_t>();
      case 4:
        return take<std::uint64_t>();
      case 5:
        return ~std::uint64_t{kind & 31U};
      case 6:
        return 1ULL << (byte() & 63U);
      default:
        return (1ULL << (byte() & 63U)) - (kind & 31U);
    }
  }
  std::span<const std::uint8_t> rest() { return std::exchange(bytes_, {}); }

 private:
  std::span<const std::uint8_t> bytes_;
};

// What must hold, whatever the input.
inline void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace mayfly::fuzz
