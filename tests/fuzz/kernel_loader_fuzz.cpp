// Kernel files from anyone: a valid ELF file or bzImage with some bytes changed and its end cut off, or
// anything at all. Whatever comes, a kernel that is accepted lies in memory and can be given its boot tables.
#include <sys/mman.h>
#include <unistd.h>

#include <optional>
#include <vector>

#include "base/unique_fd.h"
#include "tests/fuzz/input.h"
#include "tests/unit/x86_64/kernel_images.h"
#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/layout.h"

using namespace mayfly;
using namespace mayfly::vmm::x86_64;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::uint64_t kMemory = 32 * kMib;

test::Bytes make_elf() {
  test::ElfImage image = test::plain_elf();
  image.add(PT_NOTE, 0, test::pvh_note<std::uint32_t>(0x1000020));
  image.add(PT_NOTE, 0, test::linux_note());
  return image.bytes();
}

test::Bytes make_image(Input& input) {
  const std::uint8_t kind = input.byte();
  if (kind % 4 == 0) {
    const auto rest = std::as_bytes(input.rest());
    return {rest.begin(), rest.end()};
  }
  test::Bytes bytes = kind % 4 == 1 ? test::BzImage().bytes() : make_elf();
  for (int edits = input.byte() % 16; edits > 0; --edits) {
    const auto value = input.number();
    const std::size_t width = 1U << (input.byte() % 4U);
    // The first KiB has all headers; the notes are at the end.
    const std::uint64_t place = input.take<std::uint16_t>();
    const std::uint64_t offset = (place & 0x8000U) != 0 ? bytes.size() - 1 - place % 64 : place % 1024;
    for (std::size_t i = 0; i < width && offset + i < bytes.size(); ++i) {
      bytes.at(offset + i) = static_cast<std::byte>(value >> (8 * i));
    }
  }
  const std::uint64_t cut = input.take<std::uint16_t>();
  if (cut < bytes.size()) bytes.resize(bytes.size() - cut);
  return bytes;
}

void check(base::GuestMemory& memory, const LoadedKernel& kernel, int fd) {
  require(kernel.entry >= kHighMemory && kernel.entry < kernel.end);
  require(kernel.end.value() <= kMemory);
  kvm_regs regs{};
  kvm_sregs sregs{};
  set_boot_registers(kernel, regs, sregs);
  require(regs.rip == kernel.entry.value());
  const auto initrd = load_initrd(memory, fd, "fuzz", kernel);
  std::optional<Initrd> loaded;
  if (initrd) {
    require(initrd->start >= kernel.end && memory.contains(initrd->start, initrd->size));
    loaded = *initrd;
  }
  const auto line = CommandLine::create(kDefaultBootArgs);
  const auto tables = write_boot_tables(memory, kernel, loaded, *line, {});
  require(tables || kernel.setup_header);  // only a setup header may refuse the command line
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static base::GuestMemory memory = [] {
    auto created = base::GuestMemory::create(*memory_ranges(kMemory));
    require(created.has_value());
    return std::move(*created);
  }();
  static const base::UniqueFd file(::memfd_create("kernel", MFD_CLOEXEC));

  Input input(data, size);
  const test::Bytes image = make_image(input);
  require(::ftruncate(file.get(), 0) == 0);
  require(::pwrite(file.get(), image.data(), image.size(), 0) == static_cast<ssize_t>(image.size()));
  const auto kernel = load_kernel(memory, file.get(), "fuzz");
  if (kernel) {
    check(memory, *kernel, file.get());
  } else {
    require(kernel.error().message.starts_with("kernel fuzz "));
  }
  return 0;
}
