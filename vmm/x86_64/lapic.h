// The local interrupt controller at the first instruction.
#pragma once

#include <linux/kvm.h>

namespace mayfly::vmm::x86_64 {

// Changes what KVM_GET_LAPIC gave: LINT0 takes the legacy interrupt controller's, LINT1 is the NMI. For each
// vCPU, as the MP table says.
void set_lapic_lvt(kvm_lapic_state& lapic);

}  // namespace mayfly::vmm::x86_64
