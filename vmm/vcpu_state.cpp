#include "vmm/vcpu_state.h"

#include <algorithm>
#include <utility>

namespace mayfly::vmm {

namespace {

constexpr std::uint32_t kTscDeadline = 0x6e0;

// KVM stops at the first MSR it does not give; all others are wanted.
base::Result<std::vector<kvm_msr_entry>> get_msrs(const VcpuFd& fd, std::span<const std::uint32_t> indices) {
  std::vector<kvm_msr_entry> wanted;
  wanted.reserve(indices.size());
  for (const std::uint32_t index : indices) wanted.push_back({.index = index, .reserved = 0, .data = 0});
  std::vector<kvm_msr_entry> got;
  got.reserve(wanted.size());
  std::span<kvm_msr_entry> rest(wanted);
  while (!rest.empty()) {
    const std::size_t count = TRY(fd.get_msrs(rest));
    got.insert(got.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(count));
    rest = rest.subspan(std::min(count + 1, rest.size()));
  }
  // Setting the deadline starts the local APIC's timer, for which the TSC must be in place: last.
  std::ranges::stable_partition(got, [](const kvm_msr_entry& msr) { return msr.index != kTscDeadline; });
  return got;
}

}  // namespace

base::Result<VcpuState> save_vcpu(const VcpuFd& fd, std::vector<kvm_cpuid_entry2> cpuid,
                                  std::span<const std::uint32_t> msr_indices, std::size_t xsave_size) {
  VcpuState state;
  state.cpuid = std::move(cpuid);
  // First: it takes in a pending INIT or SIPI, which changes the others.
  state.mp_state = TRY(fd.get_mp_state());
  state.regs = TRY(fd.get_regs());
  state.sregs = TRY(fd.get_sregs());
  state.xsave = TRY(fd.get_xsave(xsave_size));
  state.xcrs = TRY(fd.get_xcrs());
  state.debugregs = TRY(fd.get_debugregs());
  state.lapic = TRY(fd.get_lapic());
  if (const auto khz = fd.get_tsc_khz()) state.tsc_khz = *khz;
  state.msrs = TRY(get_msrs(fd, msr_indices));
  state.events = TRY(fd.get_vcpu_events());
  return state;
}

base::Status restore_vcpu(VcpuFd& fd, const VcpuState& state) {
  // What each of these accepts depends on those before it: CPUID on nothing; the TSC's frequency before its
  // value; the local APIC's mode (an MSR in sregs) before its registers; its registers before the deadline
  // MSR.
  if (!state.cpuid.empty()) TRY(fd.set_cpuid(state.cpuid));
  if (state.tsc_khz != 0) {
    const auto here = fd.get_tsc_khz();
    if (!here || *here != state.tsc_khz) TRY(fd.set_tsc_khz(state.tsc_khz));
  }
  TRY(fd.set_sregs(state.sregs));
  TRY(fd.set_regs(state.regs));
  TRY(fd.set_xcrs(state.xcrs));
  TRY(fd.set_xsave(state.xsave));
  TRY(fd.set_debugregs(state.debugregs));
  TRY(fd.set_lapic(state.lapic));
  const std::size_t done = TRY(fd.set_msrs(state.msrs));
  if (done < state.msrs.size()) {
    return base::fail("KVM does not set MSR {:#x} to {:#x}", state.msrs[done].index, state.msrs[done].data);
  }
  TRY(fd.set_mp_state(state.mp_state));
  return fd.set_vcpu_events(state.events);
}

}  // namespace mayfly::vmm
