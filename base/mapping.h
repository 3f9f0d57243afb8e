// Ownership of a memory mapping.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"

namespace mayfly::base {

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
  static Result<Mapping> anonymous(std::size_t size);

  // `size` bytes (> 0) of `fd` from `offset` (a multiple of the page size); `protection` and `flags` as
  // mmap(2) takes them.
  static Result<Mapping> of_file(int fd, std::size_t size, int protection, int flags, off_t offset = 0);

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  Mapping(void* data, std::size_t size) : data_(static_cast<std::byte*>(data)), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mayfly::base
