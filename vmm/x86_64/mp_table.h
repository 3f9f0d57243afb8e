// The MP configuration table (Intel MultiProcessor Specification 1.4): how a kernel without ACPI learns of
// its processors and interrupt wiring.
#pragma once

#include <cstdint>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

inline constexpr std::uint32_t kMostMpTableCpus = 32;

struct Platform {
  std::uint32_t vcpu_count =
      1;  // 1–kMostMpTableCpus; APIC ids are 0 … vcpu_count - 1, the IOAPIC's is the next
  std::uint32_t virtio_devices = 0;  // 0–kMostVirtioDevices
};

// Writes the floating pointer and the table at kMpTable, and points the BIOS data area at it. Only interrupts
// that a device raises are in it: a kernel sets each up with a dozen accesses to the IOAPIC, an exit each.
base::Status write_mp_table(base::GuestMemory& memory, const Platform& platform);

}  // namespace mayfly::vmm::x86_64
