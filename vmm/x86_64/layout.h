// Where things are in the guest's physical address space (docs/design.md has the same table).
#pragma once

#include <cstdint>
#include <vector>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

using base::GuestAddress;
using base::GuestMemory;

inline constexpr std::uint64_t kKib = 1024;
inline constexpr std::uint64_t kMib = 1024 * kKib;
inline constexpr std::uint64_t kGib = 1024 * kMib;
inline constexpr std::uint64_t kPageSize = 4096;

// Below 1 MiB: what the boot protocols hand over. A kernel copies what it wants to keep and then reuses
// these pages, except for the MP table, which the memory map reserves.
inline constexpr GuestAddress kBiosEbdaSegment{0x40e};  // BIOS data area: u16, EBDA address >> 4
inline constexpr GuestAddress kBiosBaseMemory{0x413};   // BIOS data area: u16, KiB of memory below the EBDA
inline constexpr GuestAddress kBiosResetFlag{
    0x472};  // u16, kBiosWarmReset when a reset skips the memory test
inline constexpr std::uint16_t kBiosWarmReset =
    0x1234;  // Linux, told panic_warm, writes it before a panic's reset
inline constexpr GuestAddress kGdt{0x6000};
inline constexpr GuestAddress kZeroPage{0x7000};    // boot_params; with PVH: hvm_start_info and its tables
inline constexpr GuestAddress kBootStack{0x9000};   // grows down, one page; kernels soon use their own
inline constexpr GuestAddress kPageTables{0x9000};  // PML4, PDPT, up to four page directories
inline constexpr GuestAddress kCommandLine{0x20000};
inline constexpr std::uint64_t kCommandLineSize = 2048;  // with the NUL: COMMAND_LINE_SIZE of Linux on x86
inline constexpr GuestAddress kMpTable{0x9fc00};         // the last KiB of base memory, which Linux scans
inline constexpr std::uint64_t kMpTableSize = 1024;
inline constexpr GuestAddress kBaseMemoryEnd{0xa0000};
inline constexpr GuestAddress kHighMemory{kMib};  // kernels are loaded here or above

// The hole for devices between RAM below and RAM above it.
inline constexpr GuestAddress kGapStart{3 * kGib};
inline constexpr GuestAddress kGapEnd{4 * kGib};

inline constexpr GuestAddress kBootTimer{0xc0000000};
inline constexpr std::uint64_t kBootTimerSize = 0x1000;
inline constexpr GuestAddress kVirtioMmio{0xc0001000};
inline constexpr std::uint64_t kVirtioMmioSize = 0x1000;
inline constexpr GuestAddress kIoapic{0xfec00000};
inline constexpr GuestAddress kLapic{0xfee00000};
// Pages that KVM keeps for itself on Intel processors without "unrestricted guest".
inline constexpr GuestAddress kKvmIdentityMap{0xfffbc000};  // one page
inline constexpr GuestAddress kKvmTss{0xfffbd000};          // three pages

// Global system interrupts: IOAPIC pins, edge-triggered as on an ISA bus.
inline constexpr std::uint32_t kTimerGsi = 0;
inline constexpr std::uint32_t kKeyboardGsi = 1;
inline constexpr std::uint32_t kSerialGsi = 4;
inline constexpr std::uint32_t kFirstVirtioGsi = 5;
inline constexpr std::uint32_t kLastVirtioGsi = 23;
inline constexpr std::uint32_t kMostVirtioDevices = kLastVirtioGsi - kFirstVirtioGsi + 1;

// Registers and interrupt of the virtio-mmio device number `index` < kMostVirtioDevices.
constexpr GuestAddress virtio_mmio_address(std::uint32_t index) {
  return kVirtioMmio.unchecked_add(index * kVirtioMmioSize);
}
constexpr std::uint32_t virtio_mmio_gsi(std::uint32_t index) {
  return kFirstVirtioGsi + index;
}

inline constexpr std::uint64_t kLeastMemory = kMib;
inline constexpr std::uint64_t kMostMemory = 1024 * kGib;

// The RAM of a machine with `bytes` of memory, as GuestMemory::create takes it: up to the gap, the rest
// from 4 GiB. `bytes` is a multiple of the page size, kLeastMemory–kMostMemory.
base::Result<std::vector<GuestMemory::Range>> memory_ranges(std::uint64_t bytes);

enum class MemoryType : std::uint32_t { kRam = 1, kReserved = 2 };  // values of E820 and of PVH's memory map

struct MemoryMapEntry {
  GuestAddress start;
  std::uint64_t size = 0;
  MemoryType type = MemoryType::kRam;
};

// What a kernel is told about this memory, ascending, without overlaps.
std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

}  // namespace mayfly::vmm::x86_64
