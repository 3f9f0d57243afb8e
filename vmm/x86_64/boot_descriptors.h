// The segments that the boot protocols ask for: written to memory by boot_tables, loaded by boot_registers.
#pragma once

#include <cstdint>

#include "base/endian.h"
#include "vmm/x86_64/kernel_loader.h"

namespace mayfly::vmm::x86_64 {

// Flat segments at the selectors of Linux's __BOOT_CS and __BOOT_DS, and the task register that processors
// with VT-x insist on.
struct BootDescriptors {
  base::Le64 null;
  base::Le64 unused;
  base::Le64 code;
  base::Le64 data = std::uint64_t{0x00cf93000000ffff};  // read, write; 4 GiB; accessed
  base::Le64 task = std::uint64_t{0x00008b0000000067};  // busy TSS at 0, 0x68 bytes
  base::Le64 task_high;                                 // in long mode a TSS descriptor takes two places
};
static_assert(sizeof(BootDescriptors) == 48 && base::Wire<BootDescriptors>);

inline constexpr std::uint16_t kCodeSelector = 0x10;
inline constexpr std::uint16_t kDataSelector = 0x18;
inline constexpr std::uint16_t kTaskSelector = 0x20;

constexpr BootDescriptors boot_descriptors(BootProtocol protocol) {
  constexpr std::uint64_t kCode64 = 0x00af9b000000ffff;  // execute, read; long mode
  constexpr std::uint64_t kCode32 = 0x00cf9b000000ffff;  // execute, read; 32-bit, 4 GiB
  BootDescriptors descriptors;
  descriptors.code = protocol == BootProtocol::kLinux64 ? kCode64 : kCode32;
  return descriptors;
}

}  // namespace mayfly::vmm::x86_64
