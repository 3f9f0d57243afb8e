#include "base/mapping.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
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

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = 2U << 20U;

}  // namespace

Result<Mapping> Mapping::huge(std::size_t size) {
  // Without MAP_NORESERVE: pages that are not there now are an error now, and not a SIGBUS at first touch.
  auto mapping = of_file(-1, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT));
  if (!mapping) {
    return fail_because(std::move(mapping).error(),
                        "{} pages of 2 MiB (have as many free in "
                        "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)",
                        size / kHugePage);
  }
  return mapping;
}

Result<Mapping> Mapping::anonymous(std::size_t size, Pages pages) {
  if (pages == Pages::kHuge) return huge(size);
  Mapping mapping = TRY(aligned(size));
  // Advice: a host without huge pages has none to give.
  if (pages == Pages::kTransparentHuge) ::madvise(mapping.data_, mapping.size_, MADV_HUGEPAGE);
  return mapping;
}

Result<Mapping> Mapping::aligned(std::size_t size) {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (size < kHugePage) return of_file(-1, size, PROT_READ | PROT_WRITE, kFlags);
  if (size > SIZE_MAX - kHugePage) return fail("map {} bytes of memory: too many", size);

  // mmap(2) has no alignment argument: take more, and give back what is around the aligned part.
  Mapping wide = TRY(of_file(-1, size + kHugePage, PROT_READ | PROT_WRITE, kFlags));
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(wide.data_) % kHugePage;
  const std::size_t head = misaligned == 0 ? 0 : kHugePage - misaligned;
  if (head != 0) {
    if (::munmap(wide.data_, head) < 0) return fail_errno(errno, "align {} bytes of memory", size);
    wide.data_ += head;
    wide.size_ -= head;
  }
  const std::size_t whole_pages = (size + kPage - 1) / kPage * kPage;
  if (wide.size_ > whole_pages && ::munmap(wide.data_ + whole_pages, wide.size_ - whole_pages) < 0) {
    return fail_errno(errno, "align {} bytes of memory", size);
  }
  wide.size_ = size;
  return wide;
}

Result<Mapping> Mapping::of_file(int fd, std::size_t size, int protection, int flags, off_t offset) {
  void* data = ::mmap(nullptr, size, protection, flags, fd, offset);
  if (data == MAP_FAILED) return fail_errno(errno, "map {} bytes of memory", size);
  return Mapping(data, size);
}

}  // namespace mayfly::base
