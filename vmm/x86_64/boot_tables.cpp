#include <asm/bootparam.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/endian.h"
#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/boot_descriptors.h"
#include "vmm/x86_64/layout.h"
#include "vmm/x86_64/mp_table.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::GuestMemory;
using base::Le32;
using base::Le64;
using base::Status;

constexpr std::uint64_t kEntriesPerTable = 512;
using PageTable = std::array<Le64, kEntriesPerTable>;
constexpr std::uint64_t kPresentWritable = 3;
constexpr std::uint64_t kLargePage = 1U << 7U;
constexpr std::uint64_t kLargePageSize = 2 * kMib;

// Every address its own, from 0 to the end of the GiB that the kernel ends in: the 64-bit protocol asks for
// the kernel, boot_params and the command line. Most machines get three tables.
Status write_page_tables(GuestMemory& memory, base::GuestAddress kernel_end) {
  const std::uint64_t directories = std::clamp<std::uint64_t>((kernel_end.value() + kGib - 1) / kGib, 1, 4);
  const base::GuestAddress pointers_at = kPageTables.unchecked_add(kPageSize);
  const base::GuestAddress directories_at = pointers_at.unchecked_add(kPageSize);

  TRY(memory.write(kPageTables, Le64(pointers_at.value() | kPresentWritable)));
  for (std::uint64_t i = 0; i < directories; ++i) {
    const base::GuestAddress directory_at = directories_at.unchecked_add(i * kPageSize);
    TRY(memory.write(pointers_at.unchecked_add(i * sizeof(Le64)),
                     Le64(directory_at.value() | kPresentWritable)));
    PageTable directory;
    for (std::uint64_t j = 0; j < kEntriesPerTable; ++j) {
      directory.at(j) = (i * kEntriesPerTable + j) * kLargePageSize | kLargePage | kPresentWritable;
    }
    TRY(memory.write(directory_at, directory));
  }
  return {};
}

std::uint32_t low_half(std::uint64_t value) {
  return static_cast<std::uint32_t>(value & 0xffffffff);
}
std::uint32_t high_half(std::uint64_t value) {
  return static_cast<std::uint32_t>(value >> 32U);
}

// Linux's Documentation/x86/boot.rst and zero-page.rst.
constexpr std::uint8_t kLoaderTypeUndefined = 0xff;
constexpr std::uint32_t kHeaderMagic = 0x53726448;  // "HdrS"
constexpr std::uint32_t kKernelAlignment = 0x1000000;

// A vmlinux has no setup header of its own; this says what ours provides.
SetupHeader header_for_elf() {
  SetupHeader header{};
  header.boot_flag = kBootFlag;
  header.header = kHeaderMagic;
  header.version = kProtocol212;
  header.kernel_alignment = kKernelAlignment;
  header.loadflags = LOADED_HIGH;
  header.cmdline_size = kCommandLineSize - 1;
  return header;
}

Status write_boot_params(GuestMemory& memory, const LoadedKernel& kernel, const std::optional<Initrd>& initrd,
                         const CommandLine& command_line) {
  boot_params params{};
  params.hdr = kernel.setup_header ? *kernel.setup_header : header_for_elf();
  if (command_line.text().size() > params.hdr.cmdline_size) {
    return base::fail("the kernel command line is {} characters long; this kernel takes at most {}",
                      command_line.text().size(), std::uint32_t{params.hdr.cmdline_size});
  }
  params.hdr.type_of_loader = kLoaderTypeUndefined;
  params.hdr.cmd_line_ptr = low_half(kCommandLine.value());
  if (initrd) {
    params.hdr.ramdisk_image = low_half(initrd->start.value());
    params.ext_ramdisk_image = high_half(initrd->start.value());
    params.hdr.ramdisk_size = low_half(initrd->size);
    params.ext_ramdisk_size = high_half(initrd->size);
  }
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    if (params.e820_entries == E820_MAX_ENTRIES_ZEROPAGE) {
      return base::fail("guest memory has more than {} parts", E820_MAX_ENTRIES_ZEROPAGE);
    }
    boot_e820_entry& place = params.e820_table[params.e820_entries++];
    place.addr = entry.start.value();
    place.size = entry.size;
    place.type = static_cast<std::uint32_t>(entry.type);
  }
  return memory.write_bytes(kZeroPage, std::as_bytes(std::span(&params, 1)));
}

// Xen's public/arch-x86/hvm/start_info.h, version 1.
struct HvmStartInfo {
  Le32 magic = std::uint32_t{0x336ec578};
  Le32 version = std::uint32_t{1};
  Le32 flags;
  Le32 nr_modules;
  Le64 modlist_paddr;
  Le64 cmdline_paddr;
  Le64 rsdp_paddr;
  Le64 memmap_paddr;
  Le32 memmap_entries;
  Le32 reserved;
};
static_assert(sizeof(HvmStartInfo) == 56 && base::Wire<HvmStartInfo>);

struct HvmModule {
  Le64 paddr;
  Le64 size;
  Le64 cmdline_paddr{};
  Le64 reserved{};
};
static_assert(sizeof(HvmModule) == 32 && base::Wire<HvmModule>);

struct HvmMemoryMapEntry {
  Le64 addr;
  Le64 size;
  Le32 type{};
  Le32 reserved{};
};
static_assert(sizeof(HvmMemoryMapEntry) == 24 && base::Wire<HvmMemoryMapEntry>);

Status write_start_info(GuestMemory& memory, const std::optional<Initrd>& initrd) {
  constexpr base::GuestAddress kModules = kZeroPage.unchecked_add(sizeof(HvmStartInfo));
  constexpr base::GuestAddress kMemoryMap = kModules.unchecked_add(sizeof(HvmModule));
  constexpr std::uint64_t kMostEntries =
      (kPageSize - sizeof(HvmStartInfo) - sizeof(HvmModule)) / sizeof(HvmMemoryMapEntry);

  const std::vector<MemoryMapEntry> map = memory_map(memory);
  if (map.size() > kMostEntries) return base::fail("guest memory has more than {} parts", kMostEntries);
  HvmStartInfo info;
  info.cmdline_paddr = kCommandLine.value();
  info.memmap_paddr = kMemoryMap.value();
  info.memmap_entries = low_half(map.size());
  if (initrd) {
    info.nr_modules = std::uint32_t{1};
    info.modlist_paddr = kModules.value();
    TRY(memory.write(kModules, HvmModule{.paddr = initrd->start.value(), .size = initrd->size}));
  }
  for (std::uint64_t i = 0; i < map.size(); ++i) {
    TRY(memory.write(kMemoryMap.unchecked_add(i * sizeof(HvmMemoryMapEntry)),
                     HvmMemoryMapEntry{.addr = map[i].start.value(),
                                       .size = map[i].size,
                                       .type = static_cast<std::uint32_t>(map[i].type)}));
  }
  return memory.write(kZeroPage, info);
}

}  // namespace

base::Status write_boot_tables(base::GuestMemory& memory, const LoadedKernel& kernel,
                               const std::optional<Initrd>& initrd, const CommandLine& command_line,
                               const Platform& platform) {
  const std::string& text = command_line.text();
  TRY(memory.write_bytes(kCommandLine, std::as_bytes(std::span(text.c_str(), text.size() + 1))));
  TRY(memory.write(kGdt, boot_descriptors(kernel.protocol)));
  TRY(write_mp_table(memory, platform));
  switch (kernel.protocol) {
    case BootProtocol::kLinux64:
      TRY(write_page_tables(memory, kernel.end));
      return write_boot_params(memory, kernel, initrd, command_line);
    case BootProtocol::kPvh:
      return write_start_info(memory, initrd);
  }
  return {};
}

}  // namespace mayfly::vmm::x86_64
