#include "vmm/x86_64/lapic.h"

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mayfly::vmm::x86_64 {
namespace {

// Local vector table, Intel SDM volume 3, figure 11-8.
constexpr std::size_t kLvtLint0 = 0x350;
constexpr std::size_t kLvtLint1 = 0x360;
constexpr std::uint32_t kDeliveryModeMask = 7U << 8U;
constexpr std::uint32_t kDeliveryModeNmi = 4U << 8U;
constexpr std::uint32_t kDeliveryModeExtInt = 7U << 8U;
constexpr std::uint32_t kMasked = 1U << 16U;

void set_delivery_mode(kvm_lapic_state& lapic, std::size_t offset, std::uint32_t mode) {
  static_assert(sizeof(lapic.regs) >= kLvtLint1 + sizeof(std::uint32_t));
  std::uint32_t value = 0;
  std::memcpy(&value, &lapic.regs[offset], sizeof(value));
  value = (value & ~(kDeliveryModeMask | kMasked)) | mode;
  std::memcpy(&lapic.regs[offset], &value, sizeof(value));
}

}  // namespace

void set_lapic_lvt(kvm_lapic_state& lapic) {
  set_delivery_mode(lapic, kLvtLint0, kDeliveryModeExtInt);
  set_delivery_mode(lapic, kLvtLint1, kDeliveryModeNmi);
}

}  // namespace mayfly::vmm::x86_64
