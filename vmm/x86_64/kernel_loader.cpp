#include "vmm/x86_64/kernel_loader.h"

#include <array>
#include <cstring>
#include <span>
#include <string>

#include "vmm/x86_64/image_file.h"
#include "vmm/x86_64/kernel_formats.h"
#include "vmm/x86_64/layout.h"

// Why images are read into guest memory and not mapped there (MAP_PRIVATE over it), although a mapping costs
// nothing at first. Measured with the project's own kernel, 11.6 MB of segments in the page cache:
//                                              load      then read every page    then write every page
//   pread into 4 KiB pages                     9.3 ms    0.0 ms                  0.0 ms
//   pread into 2 MiB pages                     2.2 ms    0.0 ms                  0.0 ms
//   mmap, private                              0.05 ms   0.5 ms                  13.3 ms
// (two-core virtual machine, Linux 6.18; the middle of 15 runs.) Linux patches most pages of its own code
// while it boots, so that a mapping pays for the copies one page fault at a time, and each of the 2,900 pages
// costs the guest an exit besides, where six large pages cost six. Nor can anyone change or truncate a
// running guest's kernel through the file, and no two guests share its pages.

namespace mayfly::vmm::x86_64 {
namespace {

constexpr std::size_t kHeadSize = 2048;
using Head = std::array<char, kHeadSize>;

struct Signature {
  std::size_t offset;
  std::string_view bytes;
  std::string_view meaning;
};

using namespace std::string_view_literals;
constexpr std::string_view kWanted = "; a vmlinux (ELF) or bzImage for x86-64 is needed";

// What people pass by mistake. The first match wins.
constexpr std::array kSignatures = {
    Signature{0, "\x1f\x8b"sv, "is compressed with gzip: unpack it with `gunzip` first"},
    Signature{0, "\x28\xb5\x2f\xfd"sv, "is compressed with zstd: unpack it with `zstd -d` first"},
    Signature{0,
              "\xfd"
              "7zXZ\0"sv,
              "is compressed with xz: unpack it with `xz -d` first"},
    Signature{0, "BZh"sv, "is compressed with bzip2: unpack it with `bunzip2` first"},
    Signature{0, "\x02\x21\x4c\x18"sv, "is compressed with lz4: unpack it with `lz4 -d` first"},
    Signature{0, "\x04\x22\x4d\x18"sv, "is compressed with lz4: unpack it with `lz4 -d` first"},
    Signature{0, "\x5d\0\0"sv, "is compressed with lzma: unpack it with `xz -d --format=lzma` first"},
    Signature{0, "\x89LZO"sv, "is compressed with lzop: unpack it with `lzop -d` first"},
    Signature{0x38, "ARM\x64"sv, "is for aarch64, not x86-64"},
    Signature{0, "\x27\x05\x19\x56"sv, "is a U-Boot image"},
    Signature{0, "07070"sv, "is a cpio archive: it looks like an initrd"},
    Signature{0, "MZ"sv, "is an EFI program that is no Linux kernel"},
    Signature{0, "PK\x03\x04"sv, "is a zip archive"},
    Signature{257, "ustar"sv, "is a tar archive"},
    Signature{0, "hsqs"sv, "is a squashfs file system: it looks like a root file system"},
    Signature{1080, "\x53\xef"sv, "is an ext4 file system: it looks like a root file system"},
    Signature{0, "QFI\xfb"sv, "is a qcow2 disk image"},
    Signature{510, "\x55\xaa"sv, "is a disk image or a boot sector"},
    Signature{0, "#!"sv, "is a script"},
};

bool has(const Head& head, std::size_t offset, std::string_view bytes) {
  return std::string_view(head.data(), head.size()).substr(offset, bytes.size()) == bytes;
}

base::Result<LoadedKernel> load(base::GuestMemory& memory, int fd) {
  const ImageFile file = TRY(ImageFile::open(fd));
  Head head{};
  const std::span<char> present = std::span(head).first(std::min<std::uint64_t>(file.size(), head.size()));
  TRY(file.read(0, std::as_writable_bytes(present), "the first bytes"));

  if (has(head, 0, "\177ELF")) return load_elf(memory, file);
  if (has(head, 0x202, "HdrS")) return load_bzimage(memory, file);
  for (const Signature& signature : kSignatures) {
    if (has(head, signature.offset, signature.bytes)) {
      const bool has_remedy = signature.meaning.ends_with("first");
      return base::fail("{}{}", signature.meaning, has_remedy ? "" : kWanted);
    }
  }
  return base::fail("is of no known kind{}", kWanted);
}

}  // namespace

base::Status check_kernel_place(const base::GuestMemory& memory, std::uint64_t start, std::uint64_t size) {
  std::uint64_t end = 0;
  if (__builtin_add_overflow(start, size, &end)) {
    return base::fail("is damaged: a part of {:#x} bytes at {:#x} goes beyond all addresses", size, start);
  }
  if (start < kHighMemory.value()) {
    return base::fail("wants to be loaded at {:#x}: only addresses from {:#x} up are possible", start,
                      kHighMemory.value());
  }
  if (end > kGapStart.value()) {
    return base::fail("wants to be loaded up to {:#x}: only addresses below {:#x} are possible", end,
                      kGapStart.value());
  }
  if (end > TRY(low_memory_end(memory))) {
    return base::fail("does not fit into the machine's memory: it needs {} MiB, the machine has {}",
                      mib_rounded_up(end), memory.total_size() / kMib);
  }
  return {};
}

base::Result<LoadedKernel> load_kernel(base::GuestMemory& memory, int fd, std::string_view path) {
  auto kernel = load(memory, fd);
  if (!kernel) {
    kernel.error().message = fmt::format("kernel {} {}", path, kernel.error().message);
  }
  return kernel;
}

}  // namespace mayfly::vmm::x86_64
