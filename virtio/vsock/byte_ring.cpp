#include "virtio/vsock/byte_ring.h"

#include <algorithm>
#include <cstring>

namespace mayfly::virtio::vsock {

void ByteRing::write(std::span<const std::byte> bytes) {
  const std::size_t capacity = storage_.size();
  while (!bytes.empty()) {
    const std::size_t end = (start_ + size_) % capacity;
    const std::size_t part = std::min({bytes.size(), capacity - end, room()});
    if (part == 0) return;
    std::memcpy(storage_.bytes().subspan(end, part).data(), bytes.data(), part);
    size_ += part;
    bytes = bytes.subspan(part);
  }
}

std::array<std::span<std::byte>, 2> ByteRing::contents() const {
  const std::size_t first = std::min(size_, storage_.size() - start_);
  return {storage_.bytes().subspan(start_, first), storage_.bytes().first(size_ - first)};
}

void ByteRing::consume(std::size_t n) {
  start_ = (start_ + n) % storage_.size();
  size_ -= n;
}

}  // namespace mayfly::virtio::vsock
