#include "vmm/x86_64/boot.h"
#include "vmm/x86_64/boot_descriptors.h"
#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64 {
namespace {

// Control registers, Intel SDM volume 3, section 2.5.
constexpr std::uint64_t kCr0ProtectionEnable = 1U << 0U;
constexpr std::uint64_t kCr0ExtensionType = 1U << 4U;
constexpr std::uint64_t kCr0Paging = 1U << 31U;
constexpr std::uint64_t kCr4PhysicalAddressExtension = 1U << 5U;
constexpr std::uint64_t kEferLongModeEnable = 1U << 8U;
constexpr std::uint64_t kEferLongModeActive = 1U << 10U;
constexpr std::uint64_t kRflagsAlwaysOne = 1U << 1U;

// A segment register as loading `selector` from this descriptor would leave it.
kvm_segment load_segment(std::uint64_t descriptor, std::uint16_t selector) {
  const auto bits = [descriptor](unsigned shift, std::uint64_t mask) { return (descriptor >> shift) & mask; };
  const bool in_pages = bits(55, 1) != 0;
  const std::uint64_t limit = bits(0, 0xffff) | (bits(48, 0xf) << 16U);
  kvm_segment segment{};
  segment.base = bits(16, 0xffffff) | (bits(56, 0xff) << 24U);
  segment.limit = static_cast<std::uint32_t>(in_pages ? (limit << 12U) | 0xfff : limit);
  segment.selector = selector;
  segment.type = static_cast<std::uint8_t>(bits(40, 0xf));
  segment.s = static_cast<std::uint8_t>(bits(44, 1));
  segment.dpl = static_cast<std::uint8_t>(bits(45, 3));
  segment.present = static_cast<std::uint8_t>(bits(47, 1));
  segment.avl = static_cast<std::uint8_t>(bits(52, 1));
  segment.l = static_cast<std::uint8_t>(bits(53, 1));
  segment.db = static_cast<std::uint8_t>(bits(54, 1));
  segment.g = static_cast<std::uint8_t>(bits(55, 1));
  return segment;
}

void set_segments(const BootDescriptors& gdt, kvm_sregs& sregs) {
  sregs.gdt.base = kGdt.value();
  sregs.gdt.limit = sizeof(gdt) - 1;
  sregs.idt.base = 0;
  sregs.idt.limit = 0;
  sregs.cs = load_segment(gdt.code, kCodeSelector);
  const kvm_segment data = load_segment(gdt.data, kDataSelector);
  sregs.ds = data;
  sregs.es = data;
  sregs.fs = data;
  sregs.gs = data;
  sregs.ss = data;
  sregs.tr = load_segment(gdt.task, kTaskSelector);
}

}  // namespace

void set_boot_registers(const LoadedKernel& kernel, kvm_regs& regs, kvm_sregs& sregs) {
  regs = {};
  regs.rflags = kRflagsAlwaysOne;  // interrupts off, as both protocols demand
  regs.rip = kernel.entry.value();
  regs.rsp = kBootStack.value();
  set_segments(boot_descriptors(kernel.protocol), sregs);
  switch (kernel.protocol) {
    case BootProtocol::kLinux64:
      regs.rsi = kZeroPage.value();
      sregs.cr0 = kCr0ProtectionEnable | kCr0ExtensionType | kCr0Paging;
      sregs.cr3 = kPageTables.value();
      sregs.cr4 = kCr4PhysicalAddressExtension;
      sregs.efer = kEferLongModeEnable | kEferLongModeActive;
      break;
    case BootProtocol::kPvh:
      regs.rbx = kZeroPage.value();
      sregs.cr0 = kCr0ProtectionEnable | kCr0ExtensionType;
      sregs.cr3 = 0;
      sregs.cr4 = 0;
      sregs.efer = 0;
      break;
  }
}

kvm_fpu boot_fpu() {
  kvm_fpu fpu{};
  fpu.fcw = 0x37f;     // what FNINIT sets: all exceptions masked, full precision
  fpu.mxcsr = 0x1f80;  // all SSE exceptions masked
  return fpu;
}

}  // namespace mayfly::vmm::x86_64
