// vCPUs as the guest's first instruction finds them.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>

#include "base/result.h"
#include "vmm/kvm.h"
#include "vmm/x86_64/kernel_loader.h"

namespace mayfly::vmm {

struct VcpuParameters {
  std::span<const kvm_cpuid_entry2> supported_cpuid;
  std::uint32_t vcpu_count = 1;
  std::uint32_t tsc_khz = 0;  // 0: not known
  bool tsc_deadline = false;  // KVM_CAP_TSC_DEADLINE_TIMER
};

// CPUID, MSRs, floating point, local APIC; for vCPU 0 the registers that the kernel's boot protocol asks for.
// An MSR that KVM refuses is logged and left as it is: every one of them has a value that a kernel can start
// with.
base::Status set_up_vcpu(VcpuFd& fd, std::uint32_t index, const x86_64::LoadedKernel& kernel,
                         const VcpuParameters& parameters);

}  // namespace mayfly::vmm
