#include "vmm/x86_64/image_file.h"

#include <sys/stat.h>

#include <cerrno>

#include "base/file.h"

namespace mayfly::vmm::x86_64 {

base::Result<ImageFile> ImageFile::open(int fd) {
  struct stat status {};
  if (::fstat(fd, &status) < 0) return base::fail_errno(errno, "cannot be examined");
  if (S_ISDIR(status.st_mode)) return base::fail("is a directory");
  if (!S_ISREG(status.st_mode)) return base::fail("is not a regular file");
  if (status.st_size == 0) return base::fail("is empty");
  return ImageFile(fd, static_cast<std::uint64_t>(status.st_size));
}

base::Status ImageFile::read(std::uint64_t offset, std::span<std::byte> out, const char* what) const {
  if (!contains(offset, out.size())) {
    return base::fail("is truncated: {} at offset {:#x}, {} bytes, reaches beyond its end at {:#x}", what,
                      offset, out.size(), size_);
  }
  return base::read_exactly_at(fd_, out, offset);
}

base::Status ImageFile::read_to_guest(std::uint64_t offset, base::GuestMemory& memory,
                                      base::GuestAddress address, std::uint64_t length,
                                      const char* what) const {
  const std::span<std::byte> place = TRY(memory.slice(address, length));
  return read(offset, place, what);
}

base::Result<std::uint64_t> low_memory_end(const base::GuestMemory& memory) {
  if (memory.regions().empty() || memory.regions().front().start.value() != 0) {
    return base::fail("cannot be loaded: guest memory does not start at address 0");
  }
  return memory.regions().front().mapping.size();
}

}  // namespace mayfly::vmm::x86_64
