// KVM with a page or two of memory and no devices: for tests of vCPUs alone.
#pragma once

#include <array>
#include <catch2/catch.hpp>
#include <optional>
#include <vector>

#include "base/guest_memory.h"
#include "vmm/bus.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"

namespace mayfly::test {

// Memory from 0; code runs in real mode from kRealModeCode with all segments at 0.
class TinyVm {
 public:
  static constexpr std::uint64_t kRealModeCode = 0x1000;
  static constexpr std::uint64_t kMemory = 64 * 1024;

  TinyVm() {
    std::array<base::GuestMemory::Range, 1> ranges{{{base::GuestAddress(0), kMemory}}};
    memory.emplace(std::move(*base::GuestMemory::create(ranges)));
    auto made = kvm.create_vm();
    REQUIRE(made.has_value());
    vm.emplace(std::move(*made));
    REQUIRE(
        vm->set_memory_region(0, base::GuestAddress(0), memory->regions()[0].mapping.bytes()).has_value());
    REQUIRE(vm->set_identity_map_address(base::GuestAddress(0xfffbc000)).has_value());
    REQUIRE(vm->set_tss_address(base::GuestAddress(0xfffbd000)).has_value());
    REQUIRE(vm->create_irqchip().has_value());
  }
  // Before any vCPU runs.
  void place(std::uint64_t address, std::vector<std::uint8_t> code) {
    REQUIRE(memory->write_bytes(base::GuestAddress(address), std::as_bytes(std::span(code))).has_value());
  }
  // A vCPU ready to run at `rip`, whatever its number.
  vmm::VcpuFd vcpu_fd(std::uint32_t index, std::uint64_t rip = kRealModeCode) {
    auto fd = vm->create_vcpu(index, *kvm.vcpu_mmap_size());
    REQUIRE(fd.has_value());
    auto sregs = *fd->get_sregs();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    REQUIRE(fd->set_sregs(sregs).has_value());
    kvm_regs regs{};
    regs.rip = rip;
    regs.rflags = 2;
    REQUIRE(fd->set_regs(regs).has_value());
    REQUIRE(fd->set_mp_state({.mp_state = KVM_MP_STATE_RUNNABLE}).has_value());
    return std::move(*fd);
  }
  std::uint32_t read32(std::uint64_t address) const {
    return *memory->read<base::Le32>(base::GuestAddress(address));
  }

  vmm::Kvm kvm = std::move(*vmm::Kvm::open());
  std::optional<base::GuestMemory> memory;
  std::optional<vmm::Vm> vm;
  vmm::Bus port{"port"};
  vmm::Bus mmio{"mmio"};
};

}  // namespace mayfly::test
