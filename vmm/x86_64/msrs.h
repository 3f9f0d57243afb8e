// Model-specific registers at the first instruction.
#pragma once

#include <linux/kvm.h>

#include <vector>

namespace mayfly::vmm::x86_64 {

// For KVM_SET_MSRS on each vCPU.
std::vector<kvm_msr_entry> boot_msrs();

}  // namespace mayfly::vmm::x86_64
