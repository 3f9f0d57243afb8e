// The registers of virtio-mmio, and what a driver may write into Status (virtio 1.2, sections 4.2.2
// and 3.1.1). Of the transport's own use.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "virtio/mmio_transport.h"

namespace mayfly::virtio::mmio {

// Section 4.2.2: the registers, by offset.
enum Register : std::uint64_t {
  kMagicValue = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kVendorId = 0x00c,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSel = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSel = 0x024,
  kQueueSel = 0x030,
  kQueueNumMax = 0x034,
  kQueueNum = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDescLow = 0x080,
  kQueueDescHigh = 0x084,
  kQueueDriverLow = 0x090,
  kQueueDriverHigh = 0x094,
  kQueueDeviceLow = 0x0a0,
  kQueueDeviceHigh = 0x0a4,
  kShmSel = 0x0ac,
  kShmLenLow = 0x0b0,
  kShmLenHigh = 0x0b4,
  kShmBaseLow = 0x0b8,
  kShmBaseHigh = 0x0bc,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};
static_assert(kQueueNotify == kMmioQueueNotify);

inline constexpr std::uint32_t kMagic = 0x74726976;      // "virt"
inline constexpr std::uint32_t kMmioVersion = 2;         // not legacy
inline constexpr std::uint32_t kOurVendor = 0x594c464d;  // "MFLY"
inline constexpr std::uint32_t kAllOnes = 0xffffffff;

// Section 3.1.1: the order in which a driver sets its bits, one at a time. Any other write of Status than
// these, a reset, FAILED, or the value it has already, is ignored.
struct Transition {
  std::uint32_t from;
  std::uint32_t to;
};
inline constexpr std::array<Transition, 4> kTransitions = {{
    {0, kStatusAcknowledge},
    {kStatusAcknowledge, kStatusAcknowledge | kStatusDriver},
    {kStatusAcknowledge | kStatusDriver, kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk},
    {kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk,
     kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk},
}};

inline bool is_legal(std::uint32_t from, std::uint32_t to) {
  return std::ranges::any_of(kTransitions, [&](const Transition& t) { return t.from == from && t.to == to; });
}

inline void set_low(std::uint64_t& value, std::uint32_t low) {
  value = (value & ~std::uint64_t{kAllOnes}) | low;
}
inline void set_high(std::uint64_t& value, std::uint32_t high) {
  value = (value & kAllOnes) | (std::uint64_t{high} << 32U);
}

// For the log.
inline const char* name_of(DeviceType type) {
  switch (type) {
    case DeviceType::kNet:
      return "net";
    case DeviceType::kBlock:
      return "block";
    case DeviceType::kVsock:
      return "vsock";
  }
  return "unknown";
}

}  // namespace mayfly::virtio::mmio
