// Ownership of a memory mapping.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace mayfly::base {

// What anonymous memory is made of.
enum class Pages : std::uint8_t {
  kNormal,
  kTransparentHuge,  // 2 MiB pages where the host finds some (madvise(2), MADV_HUGEPAGE)
  kHuge,             // 2 MiB pages of the host's reserve (mmap(2), MAP_HUGETLB), all of them or an error
};

// Owns one mmap(2) range and unmaps it.
class Mapping {
 public:
  Mapping() = default;
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  // Anonymous private memory of `size` bytes (> 0), zero, not reserved: pages are allocated at first touch.
  // From 2 MiB up it starts on a multiple of that, so that a host may back it, and KVM map it, by huge pages.
  // With kHuge, `size` is a multiple of 2 MiB.
  static Result<Mapping> anonymous(std::size_t size, Pages pages = Pages::kNormal);

  // `size` bytes (> 0) of `fd` from `offset` (a multiple of the page size); `protection` and `flags` as
  // mmap(2) takes them.
  static Result<Mapping> of_file(int fd, std::size_t size, int protection, int flags, off_t offset = 0);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  static Result<Mapping> huge(std::size_t size);
  static Result<Mapping> aligned(std::size_t size);
  Mapping(void* data, std::size_t size) : data_(static_cast<std::byte*>(data)), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mayfly::base
