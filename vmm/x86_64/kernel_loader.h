// Puts a kernel, and an initrd, into guest memory.
//
// The files are what an operator gave us, perhaps on behalf of someone else: every number in them is checked.
#pragma once

#include <asm/bootparam.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

enum class BootProtocol : std::uint8_t {
  kPvh,      // 32-bit entry, hvm_start_info (Xen's docs/misc/pvh.pandoc)
  kLinux64,  // 64-bit entry, boot_params (Linux's Documentation/x86/boot.rst, "64-bit Boot Protocol")
};

using SetupHeader = ::setup_header;
inline constexpr std::uint16_t kBootFlag = 0xaa55;
inline constexpr std::uint16_t kProtocol212 = 0x020c;  // the first with xloadflags

struct LoadedKernel {
  base::GuestAddress entry;
  BootProtocol protocol = BootProtocol::kLinux64;
  base::GuestAddress end;  // first byte after everything the kernel occupies before it knows its memory
  bool is_linux = false;   // a real operating system rather than a few hand-assembled instructions
  std::optional<SetupHeader> setup_header;  // of a bzImage
};

// Loads the kernel open as `fd` (a regular file; its offset is not used). ELF64 with the 64-bit Linux entry
// or a PVH note, or a bzImage of boot protocol 2.12 or later with a 64-bit entry. `path` is for error
// messages. When it fails, guest memory may hold part of the image.
base::Result<LoadedKernel> load_kernel(base::GuestMemory& memory, int fd, std::string_view path);

struct Initrd {
  base::GuestAddress start;
  std::uint64_t size = 0;  // bytes, > 0
};

// Loads the initrd open as `fd` at the top of the RAM below 4 GiB, or below what the kernel's setup header
// allows, page-aligned, and above the kernel.
base::Result<Initrd> load_initrd(base::GuestMemory& memory, int fd, std::string_view path,
                                 const LoadedKernel& kernel);

}  // namespace mayfly::vmm::x86_64
