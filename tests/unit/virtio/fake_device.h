// A virtio device of two queues that returns every chain at once, and remembers what was done to it.
#pragma once

#include <algorithm>
#include <array>
#include <optional>

#include "virtio/device.h"

namespace mayfly::test {

class FakeDevice : public virtio::VirtioDevice {
 public:
  static constexpr std::uint64_t kOwnFeature = 1ULL << 3U;

  [[nodiscard]] virtio::DeviceType type() const override { return virtio::DeviceType::kVsock; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    return virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx | kOwnFeature;
  }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override {
    static constexpr std::array<std::uint16_t, 2> kSizes = {64, 16};
    return kSizes;
  }
  void read_config(std::uint32_t offset, std::span<std::byte> out) const override {
    std::ranges::fill(out, std::byte{0});
    for (std::size_t i = 0; i < out.size() && offset + i < config.size(); ++i) out[i] = config[offset + i];
  }
  void write_config(std::uint32_t offset, std::span<const std::byte> in) override {
    for (std::size_t i = 0; i < in.size() && offset + i < config.size(); ++i) config[offset + i] = in[i];
  }
  base::Status activate(virtio::Activation given) override {
    if (refuse_activation) return base::fail("this device does not want to");
    active = std::move(given);
    return {};
  }
  void queue_notified(std::uint16_t index) override {
    ++notified[index];
    virtio::Queue& queue = active->queues[index];
    for (;;) {
      auto popped = queue.pop();
      if (!popped) return active->interrupt->device_error();
      if (!*popped) break;
      queue.push(std::move(**popped), 0);
    }
    if (queue.should_notify()) active->interrupt->queue_used();
  }
  void reset() override {
    ++resets;
    active.reset();
  }

  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() const override { return {{"fake", {}}}; }

  void tell_config_changed() {
    const std::lock_guard lock(mutex());
    transport()->config_changed();
  }

  std::array<std::byte, 12> config{};
  std::optional<virtio::Activation> active;
  std::array<int, 2> notified{};
  int resets = 0;
  bool refuse_activation = false;
};

}  // namespace mayfly::test
