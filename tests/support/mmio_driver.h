// The driver's side of the virtio-mmio registers.
#pragma once

#include <cstdint>
#include <span>

#include "virtio/mmio_transport.h"

namespace mayfly::test {

// Section 4.2.2: registers by their names there.
namespace reg {
inline constexpr std::uint64_t kMagicValue = 0x000;
inline constexpr std::uint64_t kVersion = 0x004;
inline constexpr std::uint64_t kDeviceId = 0x008;
inline constexpr std::uint64_t kVendorId = 0x00c;
inline constexpr std::uint64_t kDeviceFeatures = 0x010;
inline constexpr std::uint64_t kDeviceFeaturesSel = 0x014;
inline constexpr std::uint64_t kDriverFeatures = 0x020;
inline constexpr std::uint64_t kDriverFeaturesSel = 0x024;
inline constexpr std::uint64_t kQueueSel = 0x030;
inline constexpr std::uint64_t kQueueNumMax = 0x034;
inline constexpr std::uint64_t kQueueNum = 0x038;
inline constexpr std::uint64_t kQueueReady = 0x044;
inline constexpr std::uint64_t kQueueNotify = 0x050;
inline constexpr std::uint64_t kInterruptStatus = 0x060;
inline constexpr std::uint64_t kInterruptAck = 0x064;
inline constexpr std::uint64_t kStatus = 0x070;
inline constexpr std::uint64_t kQueueDescLow = 0x080;
inline constexpr std::uint64_t kQueueDescHigh = 0x084;
inline constexpr std::uint64_t kQueueDriverLow = 0x090;
inline constexpr std::uint64_t kQueueDriverHigh = 0x094;
inline constexpr std::uint64_t kQueueDeviceLow = 0x0a0;
inline constexpr std::uint64_t kQueueDeviceHigh = 0x0a4;
inline constexpr std::uint64_t kShmSel = 0x0ac;
inline constexpr std::uint64_t kShmLenLow = 0x0b0;
inline constexpr std::uint64_t kShmBaseHigh = 0x0bc;
inline constexpr std::uint64_t kConfigGeneration = 0x0fc;
inline constexpr std::uint64_t kConfig = 0x100;
}  // namespace reg

class MmioDriver {
 public:
  explicit MmioDriver(virtio::MmioTransport& transport) : transport_(transport) {}

  template <typename T = std::uint32_t>
  T read(std::uint64_t offset) {
    T value{};
    transport_.read(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  template <typename T = std::uint32_t>
  void write(std::uint64_t offset, T value) {
    transport_.write(offset, std::as_bytes(std::span(&value, 1)));
  }
  std::uint32_t status() { return read(reg::kStatus); }
  void add_status(std::uint32_t bit) { write(reg::kStatus, status() | bit); }

  std::uint64_t offered() {
    write(reg::kDeviceFeaturesSel, 1U);
    const std::uint64_t high = read(reg::kDeviceFeatures);
    write(reg::kDeviceFeaturesSel, 0U);
    return high << 32U | read(reg::kDeviceFeatures);
  }
  void accept(std::uint64_t features) {
    write(reg::kDriverFeaturesSel, 0U);
    write(reg::kDriverFeatures, static_cast<std::uint32_t>(features));
    write(reg::kDriverFeaturesSel, 1U);
    write(reg::kDriverFeatures, static_cast<std::uint32_t>(features >> 32U));
  }
  // From reset to FEATURES_OK; whether the device took the features.
  bool negotiate(std::uint64_t features) {
    write(reg::kStatus, 0U);
    add_status(virtio::kStatusAcknowledge);
    add_status(virtio::kStatusDriver);
    accept(features);
    add_status(virtio::kStatusFeaturesOk);
    return (status() & virtio::kStatusFeaturesOk) != 0;
  }
  void set_queue(std::uint32_t index, const virtio::QueueLayout& layout) {
    write(reg::kQueueSel, index);
    write(reg::kQueueNum, std::uint32_t{layout.size});
    write_address(reg::kQueueDescLow, layout.descriptor_table);
    write_address(reg::kQueueDriverLow, layout.available_ring);
    write_address(reg::kQueueDeviceLow, layout.used_ring);
    write(reg::kQueueReady, 1U);
  }
  void start() { add_status(virtio::kStatusDriverOk); }
  void notify(std::uint32_t index) { write(reg::kQueueNotify, index); }

 private:
  void write_address(std::uint64_t low, base::GuestAddress address) {
    write(low, static_cast<std::uint32_t>(address.value()));
    write(low + 4, static_cast<std::uint32_t>(address.value() >> 32U));
  }
  virtio::MmioTransport& transport_;
};

}  // namespace mayfly::test
