// The formats that load_kernel() tells apart. Errors are worded to follow "kernel FILE ".
#pragma once

#include "base/guest_memory.h"
#include "base/result.h"
#include "vmm/x86_64/image_file.h"
#include "vmm/x86_64/kernel_loader.h"

namespace mayfly::vmm::x86_64 {

// elf_kernel.cpp: the file starts with the ELF magic.
base::Result<LoadedKernel> load_elf(base::GuestMemory& memory, const ImageFile& file);

// bzimage_kernel.cpp: the file has "HdrS" at 0x202.
base::Result<LoadedKernel> load_bzimage(base::GuestMemory& memory, const ImageFile& file);

// Whether [start, start + size) is RAM where a kernel may be: from 1 MiB up, below 3 GiB.
base::Status check_kernel_place(const base::GuestMemory& memory, std::uint64_t start, std::uint64_t size);

}  // namespace mayfly::vmm::x86_64
