// Bytes a guest sent that the host peer has not taken yet.
#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "base/mapping.h"

namespace mayfly::virtio::vsock {

// A fixed number of bytes, first in, first out.
class ByteRing {
 public:
  explicit ByteRing(base::Mapping storage) : storage_(std::move(storage)) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t room() const { return storage_.size() - size_; }
  // Appends; there must be room for all of it.
  void write(std::span<const std::byte> bytes);
  // All that is in it, in order; the second part is empty unless it wraps.
  [[nodiscard]] std::array<std::span<std::byte>, 2> contents() const;
  // Drops n <= size() bytes off the front.
  void consume(std::size_t n);
  // The memory, for the next ring.
  base::Mapping release() && { return std::move(storage_); }

 private:
  base::Mapping storage_;
  std::size_t start_ = 0;
  std::size_t size_ = 0;
};

}  // namespace mayfly::virtio::vsock
