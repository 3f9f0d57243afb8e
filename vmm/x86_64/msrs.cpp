#include "vmm/x86_64/msrs.h"

#include <array>
#include <cstdint>

namespace mayfly::vmm::x86_64 {
namespace {

struct Msr {
  std::uint32_t index;
  std::uint64_t value;
  const char* reason;
};

// Intel SDM volume 4; AMD APM volume 2, appendix A.
constexpr std::array kBootMsrs = {
    Msr{0x10, 0, "IA32_TSC: time starts now; the same write on each vCPU lets KVM keep them in step"},
    Msr{0x174, 0, "IA32_SYSENTER_CS: no system call entry until the kernel has set one"},
    Msr{0x175, 0, "IA32_SYSENTER_ESP"},
    Msr{0x176, 0, "IA32_SYSENTER_EIP"},
    Msr{0x1a0, 1, "IA32_MISC_ENABLE: fast string operations, or Linux takes them for broken"},
    Msr{0x2ff, 0x806, "IA32_MTRR_DEF_TYPE: MTRRs on and all memory write-back, as firmware would leave it"},
    Msr{0xc0000081, 0, "IA32_STAR"},
    Msr{0xc0000082, 0, "IA32_LSTAR"},
    Msr{0xc0000083, 0, "IA32_CSTAR"},
    Msr{0xc0000084, 0, "IA32_FMASK"},
    Msr{0xc0000102, 0, "IA32_KERNEL_GS_BASE"},
};

}  // namespace

std::vector<kvm_msr_entry> boot_msrs() {
  std::vector<kvm_msr_entry> entries;
  entries.reserve(kBootMsrs.size());
  for (const Msr& msr : kBootMsrs) entries.push_back({.index = msr.index, .reserved = 0, .data = msr.value});
  return entries;
}

}  // namespace mayfly::vmm::x86_64
