#include <algorithm>

#include "vmm/x86_64/image_file.h"
#include "vmm/x86_64/kernel_loader.h"
#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64 {
namespace {

base::Result<Initrd> load(base::GuestMemory& memory, int fd, const LoadedKernel& kernel) {
  const ImageFile file = TRY(ImageFile::open(fd));
  std::uint64_t top = TRY(low_memory_end(memory));
  if (kernel.setup_header)
    top = std::min<std::uint64_t>(top, std::uint64_t{kernel.setup_header->initrd_addr_max} + 1);
  const std::uint64_t bottom = std::max(kernel.end, kHighMemory).value();
  const std::uint64_t start = file.size() <= top ? (top - file.size()) / kPageSize * kPageSize : 0;
  if (start < bottom) {
    return base::fail(
        "does not fit into the machine's memory: {} MiB, of which the kernel leaves {} (of {} in all)",
        mib_rounded_up(file.size()), top > bottom ? (top - bottom) / kMib : 0, memory.total_size() / kMib);
  }
  const Initrd initrd{base::GuestAddress(start), file.size()};
  memory.advise_huge_pages(initrd.start, initrd.size);
  TRY(file.read_to_guest(0, memory, initrd.start, initrd.size, "the initrd"));
  return initrd;
}

}  // namespace

base::Result<Initrd> load_initrd(base::GuestMemory& memory, int fd, std::string_view path,
                                 const LoadedKernel& kernel) {
  auto initrd = load(memory, fd, kernel);
  if (!initrd) initrd.error().message = fmt::format("initrd {} {}", path, initrd.error().message);
  return initrd;
}

}  // namespace mayfly::vmm::x86_64
