// Everything KVM keeps of one vCPU: what a snapshot stores of it.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "vmm/kvm.h"

namespace mayfly::vmm {

struct VcpuState {
  std::vector<kvm_cpuid_entry2> cpuid;  // as it was set: KVM does not tell it
  std::uint32_t tsc_khz = 0;            // 0: not known
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::vector<std::byte> xsave;
  kvm_xcrs xcrs{};
  kvm_debugregs debugregs{};
  kvm_lapic_state lapic{};
  kvm_vcpu_events events{};
  std::vector<kvm_msr_entry> msrs;
};

// The vCPU is parked. `msr_indices`: Kvm::msr_indices(); those that this vCPU does not have are left out.
// `xsave_size`: Vm::xsave_size().
base::Result<VcpuState> save_vcpu(const VcpuFd& fd, std::vector<kvm_cpuid_entry2> cpuid,
                                  std::span<const std::uint32_t> msr_indices, std::size_t xsave_size);

// Into a vCPU that has not run yet. An MSR that this KVM refuses is an error: the guest would go on with
// another value than it wrote.
base::Status restore_vcpu(VcpuFd& fd, const VcpuState& state);

}  // namespace mayfly::vmm
