// The state a kernel finds at its first instruction: tables in memory, registers of the first vCPU.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <optional>

#include "base/guest_memory.h"
#include "base/result.h"
#include "vmm/x86_64/command_line.h"
#include "vmm/x86_64/kernel_loader.h"
#include "vmm/x86_64/mp_table.h"

namespace mayfly::vmm::x86_64 {

// Writes the command line, boot_params or hvm_start_info, GDT, page tables and MP table. Call it after
// load_kernel and load_initrd.
base::Status write_boot_tables(base::GuestMemory& memory, const LoadedKernel& kernel,
                               const std::optional<Initrd>& initrd, const CommandLine& command_line,
                               const Platform& platform);

// Registers of vCPU 0. Changes those the boot protocol names in what KVM_GET_REGS and KVM_GET_SREGS gave.
// Other vCPUs are left as KVM made them, waiting for their start-up interrupt.
void set_boot_registers(const LoadedKernel& kernel, kvm_regs& regs, kvm_sregs& sregs);

// Floating-point state after reset, for every vCPU.
kvm_fpu boot_fpu();

}  // namespace mayfly::vmm::x86_64
