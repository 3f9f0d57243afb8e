// A kernel or initrd file while it is being loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/endian.h"
#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

// Reads at offsets that come from the file itself: each is checked against the size the file had at open().
class ImageFile {
 public:
  // Fails unless `fd`, which the caller keeps open, is a regular file with something in it.
  static base::Result<ImageFile> open(int fd);

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] bool contains(std::uint64_t offset, std::uint64_t length) const {
    return offset <= size_ && length <= size_ - offset;
  }

  // Fills `out`. `what` names it in the error: "ends inside WHAT".
  base::Status read(std::uint64_t offset, std::span<std::byte> out, const char* what) const;

  template <base::Wire T>
  base::Result<T> read(std::uint64_t offset, const char* what) const {
    T value{};
    TRY(read(offset, std::as_writable_bytes(std::span(&value, 1)), what));
    return value;
  }

  // Reads `length` bytes of the file straight into guest memory.
  base::Status read_to_guest(std::uint64_t offset, base::GuestMemory& memory, base::GuestAddress address,
                             std::uint64_t length, const char* what) const;

 private:
  ImageFile(int fd, std::uint64_t size) : fd_(fd), size_(size) {}
  int fd_;
  std::uint64_t size_;
};

// The first address above the RAM that kernels and initrds go to: that which starts at 0.
base::Result<std::uint64_t> low_memory_end(const base::GuestMemory& memory);

// Number of MiB that `bytes` fit in.
constexpr std::uint64_t mib_rounded_up(std::uint64_t bytes) {
  return (bytes >> 20U) + ((bytes & 0xfffff) != 0 ? 1 : 0);
}

}  // namespace mayfly::vmm::x86_64
