#include "vmm/vcpu_setup.h"

#include <vector>

#include "base/log.h"
#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/cpuid.h"
#include "vmm/x86_64/lapic.h"
#include "vmm/x86_64/msrs.h"

namespace mayfly::vmm {

namespace {

base::Status set_msrs(VcpuFd& fd, std::span<const kvm_msr_entry> msrs) {
  while (!msrs.empty()) {
    const std::size_t done = TRY(fd.set_msrs(msrs));
    if (done >= msrs.size()) return {};
    base::log::debug("KVM does not set MSR {:#x} to {:#x}", msrs[done].index, msrs[done].data);
    msrs = msrs.subspan(done + 1);
  }
  return {};
}

base::Status set_lapic(VcpuFd& fd) {
  kvm_lapic_state lapic = TRY(fd.get_lapic());
  x86_64::set_lapic_lvt(lapic);
  return fd.set_lapic(lapic);
}

base::Status set_registers(VcpuFd& fd, const x86_64::LoadedKernel& kernel) {
  kvm_regs regs{};
  kvm_sregs sregs = TRY(fd.get_sregs());
  x86_64::set_boot_registers(kernel, regs, sregs);
  TRY(fd.set_sregs(sregs));
  return fd.set_regs(regs);
}

}  // namespace

base::Status set_up_vcpu(VcpuFd& fd, std::uint32_t index, const x86_64::LoadedKernel& kernel,
                         const VcpuParameters& parameters) {
  // First, since what the other calls accept depends on it.
  TRY(fd.set_cpuid(
      x86_64::guest_cpuid(parameters.supported_cpuid, {.vcpu_index = index,
                                                       .vcpu_count = parameters.vcpu_count,
                                                       .tsc_khz = parameters.tsc_khz,
                                                       .tsc_deadline = parameters.tsc_deadline})));
  static const std::vector<kvm_msr_entry> msrs = x86_64::boot_msrs();
  TRY(set_msrs(fd, msrs));
  TRY(fd.set_fpu(x86_64::boot_fpu()));
  TRY(set_lapic(fd));
  if (index == 0) TRY(set_registers(fd, kernel));
  return {};
}

}  // namespace mayfly::vmm
