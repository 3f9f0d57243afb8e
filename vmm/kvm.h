// KVM's ioctls, one typed function each. What they do is in the kernel's Documentation/virt/kvm/api.rst;
// comments here are for what a caller must know besides.
//
// Every function may be called from any thread, but those of a VcpuFd only while its vCPU is not running.
#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/guest_memory.h"
#include "base/mapping.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::vmm {

// One vCPU.
class VcpuFd {
 public:
  // KVM_RUN. 0, or the errno value: EINTR after a signal or immediate_exit, EAGAIN for a vCPU that waits for
  // its start-up interrupt. On 0 the exit is described in run_page().
  [[nodiscard]] int run();

  // The page shared with KVM.
  [[nodiscard]] kvm_run& run_page() const;
  // All of the shared mapping: the data of a port access is at an offset into it.
  [[nodiscard]] std::span<std::byte> run_bytes() const { return run_.bytes(); }
  // Makes this or the next KVM_RUN return EINTR, once pending I/O is completed, without executing anything.
  // Any thread, at any time.
  void set_immediate_exit(bool on) const;

  [[nodiscard]] base::Result<kvm_regs> get_regs() const;
  [[nodiscard]] base::Status set_regs(const kvm_regs& regs);
  [[nodiscard]] base::Result<kvm_sregs> get_sregs() const;
  [[nodiscard]] base::Status set_sregs(const kvm_sregs& sregs);
  [[nodiscard]] base::Status set_fpu(const kvm_fpu& fpu);
  [[nodiscard]] base::Result<kvm_lapic_state> get_lapic() const;
  [[nodiscard]] base::Status set_lapic(const kvm_lapic_state& lapic);
  [[nodiscard]] base::Result<kvm_mp_state> get_mp_state() const;
  [[nodiscard]] base::Status set_mp_state(const kvm_mp_state& state);
  [[nodiscard]] base::Result<kvm_vcpu_events> get_vcpu_events() const;
  [[nodiscard]] base::Status set_vcpu_events(const kvm_vcpu_events& events);
  [[nodiscard]] base::Result<kvm_debugregs> get_debugregs() const;
  [[nodiscard]] base::Status set_debugregs(const kvm_debugregs& registers);
  [[nodiscard]] base::Result<kvm_xcrs> get_xcrs() const;
  [[nodiscard]] base::Status set_xcrs(const kvm_xcrs& xcrs);
  // `size`: Vm::xsave_size().
  [[nodiscard]] base::Result<std::vector<std::byte>> get_xsave(std::size_t size) const;
  [[nodiscard]] base::Status set_xsave(std::span<const std::byte> xsave);

  [[nodiscard]] base::Status set_cpuid(std::span<const kvm_cpuid_entry2> entries);
  // KVM takes or gives them in order and stops at the first it refuses: how many were done.
  [[nodiscard]] base::Result<std::size_t> set_msrs(std::span<const kvm_msr_entry> msrs);
  [[nodiscard]] base::Result<std::size_t> get_msrs(std::span<kvm_msr_entry> msrs) const;
  [[nodiscard]] base::Result<std::uint32_t> get_tsc_khz() const;
  [[nodiscard]] base::Status set_tsc_khz(std::uint32_t khz);
  // Tells the guest's clock that the vCPU was paused, so that its watchdogs do not bark. EINVAL when the
  // guest does not use that clock.
  [[nodiscard]] base::Status kvmclock_ctrl();

 private:
  friend class Vm;
  VcpuFd(base::UniqueFd fd, base::Mapping run) : fd_(std::move(fd)), run_(std::move(run)) {}
  base::UniqueFd fd_;
  base::Mapping run_;
};

// One virtual machine. The memory given to it, and the eventfds, stay alive as long as it does.
class Vm {
 public:
  // 0 when KVM lacks the capability for this VM; otherwise what it says about it.
  [[nodiscard]] int check_extension(int capability) const;

  [[nodiscard]] base::Status set_memory_region(std::uint32_t slot, base::GuestAddress start,
                                               std::span<std::byte> memory);
  [[nodiscard]] base::Status set_tss_address(base::GuestAddress address);
  [[nodiscard]] base::Status set_identity_map_address(base::GuestAddress address);
  // PIC, IOAPIC and local APICs with the default routing of GSIs. Before any vCPU.
  [[nodiscard]] base::Status create_irqchip();
  // The interval timer, with port 0x61 as a dummy. After create_irqchip().
  [[nodiscard]] base::Status create_pit();
  // A write of `length` bytes to `address` (of exactly `datamatch`) adds one to `eventfd` instead of leaving
  // the guest.
  [[nodiscard]] base::Status assign_ioeventfd(base::GuestAddress address, std::uint32_t length,
                                              std::uint64_t datamatch, int eventfd);
  // Each write to `eventfd` is a pulse (an edge) on that interrupt line.
  [[nodiscard]] base::Status assign_irqfd(std::uint32_t gsi, int eventfd);
  // `run_size`: Kvm::vcpu_mmap_size().
  [[nodiscard]] base::Result<VcpuFd> create_vcpu(std::uint32_t id, std::size_t run_size);
  [[nodiscard]] std::size_t xsave_size() const;

 private:
  friend class Kvm;
  explicit Vm(base::UniqueFd fd) : fd_(std::move(fd)) {}
  base::UniqueFd fd_;
};

// /dev/kvm.
class Kvm {
 public:
  // The error says what to do: load the module, join the group kvm, or use another kernel.
  static base::Result<Kvm> open(const std::string& path = "/dev/kvm");

  [[nodiscard]] base::Result<Vm> create_vm() const;
  [[nodiscard]] base::Result<std::size_t> vcpu_mmap_size() const;
  [[nodiscard]] base::Result<std::vector<kvm_cpuid_entry2>> supported_cpuid() const;
  // The MSRs that make up a vCPU's state.
  [[nodiscard]] base::Result<std::vector<std::uint32_t>> msr_indices() const;

 private:
  explicit Kvm(base::UniqueFd fd) : fd_(std::move(fd)) {}
  base::UniqueFd fd_;
};

// Whether this processor has VT-x or AMD-V, without which KVM (if it is there at all) executes a guest's
// kernel code so slowly and incompletely that no operating system boots.
bool hardware_virtualization();

}  // namespace mayfly::vmm
