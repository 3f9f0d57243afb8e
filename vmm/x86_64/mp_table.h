// The MP configuration table (Intel MultiProcessor Specification 1.4): how a kernel without ACPI learns of
// its processors and interrupt wiring.
#pragma once

#include <cstdint>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

inline constexpr std::uint32_t kMostMpTableCpus = 32;

// Writes the floating pointer and the table at kMpTable, and points the BIOS data area at it. APIC ids are
// 0 … vcpu_count - 1 (1–kMostMpTableCpus), the IOAPIC's id is the next one.
base::Status write_mp_table(base::GuestMemory& memory, std::uint32_t vcpu_count);

}  // namespace mayfly::vmm::x86_64
