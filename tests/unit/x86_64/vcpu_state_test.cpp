#include <catch2/catch.hpp>
#include <cstring>
#include <map>

#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/lapic.h"
#include "vmm/x86_64/msrs.h"

namespace mayfly::vmm::x86_64 {
namespace {

std::uint32_t lapic_register(const kvm_lapic_state& lapic, std::size_t offset) {
  std::uint32_t value = 0;
  std::memcpy(&value, &lapic.regs[offset], sizeof(value));
  return value;
}

}  // namespace

TEST_CASE("MSRs: each once, memory write-back, fast strings") {
  std::map<std::uint32_t, std::uint64_t> msrs;
  for (const kvm_msr_entry& entry : boot_msrs()) CHECK(msrs.emplace(entry.index, entry.data).second);
  CHECK(msrs.at(0x2ff) == 0x806);
  CHECK(msrs.at(0x1a0) == 1);
  CHECK(msrs.at(0x10) == 0);
  for (const std::uint32_t index :
       {0x174U, 0x175U, 0x176U, 0xc0000081U, 0xc0000082U, 0xc0000083U, 0xc0000084U, 0xc0000102U}) {
    CHECK(msrs.at(index) == 0);
  }
  CHECK(msrs.size() == 11);
}

TEST_CASE("LINT0 is ExtINT, LINT1 is NMI, other registers stay") {
  kvm_lapic_state lapic{};
  std::memset(&lapic, 0x5a, sizeof(lapic));
  const kvm_lapic_state before = lapic;
  // As after reset: masked.
  const std::uint32_t masked = 0x10000;
  std::memcpy(&lapic.regs[0x350], &masked, 4);
  set_lapic_lvt(lapic);
  CHECK(lapic_register(lapic, 0x350) == 0x700);
  CHECK(lapic_register(lapic, 0x360) == ((0x5a5a5a5aU & ~0x10700U) | 0x400U));
  std::memcpy(&lapic.regs[0x350], &before.regs[0x350], 4);
  std::memcpy(&lapic.regs[0x360], &before.regs[0x360], 4);
  CHECK(std::memcmp(&lapic, &before, sizeof(lapic)) == 0);
}

TEST_CASE("floating-point exceptions are masked") {
  const kvm_fpu fpu = boot_fpu();
  CHECK(fpu.fcw == 0x37f);
  CHECK(fpu.mxcsr == 0x1f80);
}

}  // namespace mayfly::vmm::x86_64
