// What CPUID tells the guest: KVM's supported set, changed by a table of rules with a reason each.
#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <span>
#include <vector>

namespace mayfly::vmm::x86_64 {

struct CpuidParameters {
  std::uint32_t vcpu_index = 0;  // also the APIC id; < vcpu_count
  std::uint32_t vcpu_count = 1;  // 1–32; shown as one package, a core each, no hyper-threads
  std::uint32_t tsc_khz = 0;     // KVM_GET_TSC_KHZ; 0: not known, the guest must measure
  bool tsc_deadline = false;     // KVM_CAP_TSC_DEADLINE_TIMER, which KVM_GET_SUPPORTED_CPUID leaves out
};

// `supported`: what KVM_GET_SUPPORTED_CPUID gave. The result is for KVM_SET_CPUID2.
std::vector<kvm_cpuid_entry2> guest_cpuid(std::span<const kvm_cpuid_entry2> supported,
                                          const CpuidParameters& parameters);

}  // namespace mayfly::vmm::x86_64
