#include <algorithm>
#include <cstddef>

#include "vmm/x86_64/kernel_formats.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::Status;

// Linux's Documentation/x86/boot.rst.
constexpr std::uint64_t kHeaderOffset = 0x1f1;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kDefaultSetupSectors = 4;
constexpr std::uint64_t kParagraph = 16;      // unit of syssize
constexpr std::uint64_t kEntry64 = 0x200;     // from the load address
constexpr std::uint64_t kAfterMagic = 0x202;  // the jump's offset, at 0x201, counts from here

// The header, as much of it as the file says it has; newer fields than that stay zero.
base::Result<SetupHeader> read_header(const ImageFile& file) {
  const auto jump_offset = TRY(file.read<std::uint8_t>(0x201, "the setup header"));
  const std::uint64_t length =
      std::min<std::uint64_t>(kAfterMagic + jump_offset - kHeaderOffset, sizeof(SetupHeader));
  SetupHeader header{};
  TRY(file.read(kHeaderOffset, std::as_writable_bytes(std::span(&header, 1)).first(length),
                "the setup header"));
  return header;
}

Status check_header(const SetupHeader& header) {
  if (header.boot_flag != kBootFlag)
    return base::fail("is damaged: its boot flag is {:#x}", header.boot_flag + 0U);
  if (header.version < kProtocol212) {
    return base::fail(
        "is too old: its boot protocol is {}.{:02}, the first with a 64-bit entry is 2.12 (Linux 3.8)",
        header.version >> 8U, header.version & 0xffU);
  }
  if ((header.loadflags & LOADED_HIGH) == 0) return base::fail("is a zImage, which loads below 1 MiB");
  if ((header.xloadflags & XLF_KERNEL_64) == 0) {
    return base::fail("has no 64-bit entry: it is for 32-bit x86, not x86-64");
  }
  return {};
}

}  // namespace

// A bzImage is real-mode code, which is left out, and then a program that unpacks the kernel; that goes to
// memory as it is. It unpacks to pref_address wherever it is (if not relocated further up), so it may as well
// start there, and init_size is what the two need together.
base::Result<LoadedKernel> load_bzimage(base::GuestMemory& memory, const ImageFile& file) {
  const SetupHeader header = TRY(read_header(file));
  TRY(check_header(header));
  const std::uint64_t sectors = header.setup_sects == 0 ? kDefaultSetupSectors : header.setup_sects;
  const std::uint64_t payload_at = (sectors + 1) * kSectorSize;
  const std::uint64_t payload_size = std::uint64_t{header.syssize} * kParagraph;
  // syssize is rounded up to whole paragraphs; the file need not be padded.
  const std::uint64_t available = file.size() > payload_at ? file.size() - payload_at : 0;
  if (available + kParagraph - 1 < payload_size) {
    return base::fail("is truncated: it has {:#x} bytes after its setup code, its header says {:#x}",
                      available, payload_size);
  }
  const std::uint64_t length = std::min(available, payload_size);
  if (length <= kEntry64 || length > header.init_size) {
    return base::fail("is damaged: {:#x} bytes of code, to be unpacked within {:#x}", length,
                      header.init_size + 0U);
  }
  TRY(check_kernel_place(memory, header.pref_address, header.init_size));

  const base::GuestAddress start(header.pref_address);
  memory.advise_huge_pages(start, header.init_size);
  TRY(file.read_to_guest(payload_at, memory, start, length, "the compressed kernel"));
  return LoadedKernel{.entry = start.unchecked_add(kEntry64),
                      .protocol = BootProtocol::kLinux64,
                      .end = start.unchecked_add(header.init_size),
                      .is_linux = true,
                      .setup_header = header};
}

}  // namespace mayfly::vmm::x86_64
