// What the guest wrote to its console and nobody has read yet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace mayfly::vmm {

// A ring of bytes. When it is full the oldest bytes give way: what a guest says last, a panic, is what
// someone will want to read.
class ConsoleRing {
 public:
  static constexpr std::size_t kSize = 64 * 1024;

  // Untouched memory costs nothing: most guests never fill it.
  ConsoleRing() : bytes_(std::make_unique_for_overwrite<std::byte[]>(kSize)) {}

  [[nodiscard]] bool empty() const { return used_ == 0; }
  [[nodiscard]] bool full() const { return used_ == kSize; }
  void put(std::byte byte) {
    bytes_[(first_ + used_) % kSize] = byte;
    if (!full()) {
      ++used_;
      return;
    }
    first_ = (first_ + 1) % kSize;
    ++lost_;
  }
  // The oldest bytes, as many as lie in one piece.
  [[nodiscard]] std::span<const std::byte> front() const {
    const std::size_t to_end = kSize - first_;
    return {bytes_.get() + first_, used_ < to_end ? used_ : to_end};
  }
  // n <= front().size()
  void drop(std::size_t n) {
    first_ = (first_ + n) % kSize;
    used_ -= n;
  }
  void clear() { used_ = 0; }
  // Bytes that gave way since the start.
  [[nodiscard]] std::uint64_t lost() const { return lost_; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t first_ = 0;
  std::size_t used_ = 0;
  std::uint64_t lost_ = 0;
};

}  // namespace mayfly::vmm
