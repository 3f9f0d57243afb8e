// How a device behind the transport is started, reset, saved and restored.
#include "virtio/mmio_registers.h"
#include "virtio/mmio_transport.h"

namespace mayfly::virtio {

using base::fail;
using base::GuestAddress;

void MmioTransport::start() {
  if (auto activated = activate({}); !activated) {
    if (log_limiter_.allow()) {
      base::log::warning("virtio {}: cannot start: {}", mmio::name_of(device_.type()),
                         activated.error().message);
    }
    device_error();
  }
}

base::Status MmioTransport::activate(std::span<const Queue::State> queue_states) {
  Activation activation{
      .features = state_.driver_features, .memory = &memory_, .interrupt = this, .queues = {}};
  for (std::size_t i = 0; i < state_.queues.size(); ++i) {
    const QueueRegisters& registers = state_.queues[i];
    if (!registers.ready) {
      activation.queues.emplace_back();
      continue;
    }
    const QueueLayout layout = {.size = static_cast<std::uint16_t>(registers.size),
                                .descriptor_table = GuestAddress(registers.descriptor_table),
                                .available_ring = GuestAddress(registers.available_ring),
                                .used_ring = GuestAddress(registers.used_ring)};
    auto queue = Queue::create(memory_, layout, state_.driver_features);
    if (!queue) return base::fail_because(std::move(queue).error(), "queue {}", i);
    if (i < queue_states.size()) queue->restore(queue_states[i]);
    activation.queues.push_back(*queue);
  }
  // Before the call: a device may find work and interrupt from within.
  active_ = true;
  ++metrics_.activations;
  auto activated = device_.activate(std::move(activation));
  if (!activated) {
    device_.reset();
    active_ = false;
  }
  return activated;
}

// Section 2.1.2 and 4.2.3.1.1: back to the beginning, at once; a driver that reads Status next reads 0.
void MmioTransport::reset() {
  device_.reset();
  active_ = false;
  ++metrics_.resets;
  // The generation goes on: a driver that compares must see that it was not interrupted by a change.
  const std::uint32_t generation = state_.config_generation;
  const std::size_t queues = state_.queues.size();
  state_ = State{};
  state_.config_generation = generation;
  state_.queues.resize(queues);
}

MmioTransport::State MmioTransport::save() {
  const std::lock_guard lock(device_.mutex());
  return state_;
}

base::Status MmioTransport::restore(const State& state, std::span<const Queue::State> queue_states) {
  const std::lock_guard lock(device_.mutex());
  if (state.queues.size() != state_.queues.size()) {
    return fail("the saved device has {} queues, this one {}", state.queues.size(), state_.queues.size());
  }
  const auto limits = device_.queue_sizes();
  for (std::size_t i = 0; i < state.queues.size(); ++i) {
    if (state.queues[i].size > limits[i]) {
      return fail("saved queue {} has {} entries, more than {}", i, state.queues[i].size, limits[i]);
    }
  }
  const std::uint64_t unknown = state.driver_features & ~offered_features();
  if ((state.status & kStatusFeaturesOk) != 0 && unknown != 0) {
    return fail("the saved driver uses features {:#x}, which this device does not offer", unknown);
  }
  state_ = state;
  constexpr std::uint32_t kStopped = kStatusFailed | kStatusDeviceNeedsReset;
  if (!has_status(kStatusDriverOk) || (state_.status & kStopped) != 0) return {};
  return activate(queue_states);
}

}  // namespace mayfly::virtio
