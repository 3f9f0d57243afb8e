#include "base/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <utility>

namespace mayfly::base {

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Result<Mapping> Mapping::anonymous(std::size_t size) {
  return of_file(-1, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
}

Result<Mapping> Mapping::of_file(int fd, std::size_t size, int protection, int flags, off_t offset) {
  void* data = ::mmap(nullptr, size, protection, flags, fd, offset);
  if (data == MAP_FAILED) return fail_errno(errno, "map {} bytes of memory", size);
  return Mapping(data, size);
}

}  // namespace mayfly::base
