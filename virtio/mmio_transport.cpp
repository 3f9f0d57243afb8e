#include "virtio/mmio_transport.h"

#include <algorithm>
#include <bit>

#include "virtio/mmio_registers.h"

namespace mayfly::virtio {

using namespace mmio;  // NOLINT(google-build-using-namespace): the registers, by name

namespace {

bool is_register_access(std::uint64_t offset, std::size_t width) {
  return width == 4 && offset % 4 == 0;
}

bool is_config_access(std::uint64_t offset, std::size_t width) {
  return std::has_single_bit(width) && width <= 8 && offset <= kMmioSize - width;
}

}  // namespace

MmioTransport::MmioTransport(VirtioDevice& device, const base::GuestMemory& memory,
                             std::function<void()> raise_irq)
    : device_(device), memory_(memory), raise_irq_(std::move(raise_irq)) {
  state_.queues.resize(device_.queue_sizes().size());
  const std::lock_guard lock(device_.mutex());
  device_.attach(this);
}

MmioTransport::~MmioTransport() {
  const std::lock_guard lock(device_.mutex());
  device_.reset();
  device_.attach(nullptr);
}

std::uint64_t MmioTransport::offered_features() const {
  return device_.offered_features() | kFeatureVersion1;
}

// ---- Accesses ----

void MmioTransport::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(device_.mutex());
  if (offset >= kConfig) {
    if (is_config_access(offset, out.size())) {
      device_.read_config(static_cast<std::uint32_t>(offset - kConfig), out);
      return;
    }
  } else if (is_register_access(offset, out.size())) {
    const base::Le32 value = read_register(offset);
    std::ranges::copy(std::as_bytes(std::span(&value, 1)), out.begin());
    return;
  }
  bad_access("read", offset);
  std::ranges::fill(out, std::byte{0xff});
}

void MmioTransport::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(device_.mutex());
  if (offset >= kConfig) {
    if (is_config_access(offset, in.size())) {
      device_.write_config(static_cast<std::uint32_t>(offset - kConfig), in);
      return;
    }
  } else if (is_register_access(offset, in.size())) {
    base::Le32 value;
    std::ranges::copy(in, std::as_writable_bytes(std::span(&value, 1)).begin());
    write_register(offset, value);
    return;
  }
  bad_access("write", offset);
}

bool MmioTransport::reaches_device(std::uint64_t offset, std::span<const std::byte> in) {
  if (!is_register_access(offset, in.size())) return false;
  base::Le32 value;
  std::ranges::copy(in, std::as_writable_bytes(std::span(&value, 1)).begin());
  if (offset == kStatus) return value == 0U || (value & (kStatusDriverOk | kStatusFailed)) != 0;
  return offset == kQueueNotify;
}

void MmioTransport::queue_notified(std::uint16_t index) {
  const std::lock_guard lock(device_.mutex());
  notify(index);
}

void MmioTransport::notify_all_queues() {
  const std::lock_guard lock(device_.mutex());
  for (std::size_t i = 0; i < state_.queues.size(); ++i) {
    if (state_.queues[i].ready) notify(static_cast<std::uint32_t>(i));
  }
}

void MmioTransport::bad_access(const char* what, std::uint64_t offset) {
  ++metrics_.bad_accesses;
  if (log_limiter_.allow()) {
    base::log::warning("virtio {}: ignored {} at offset {:#x}", name_of(device_.type()), what, offset);
  }
}

// ---- Registers ----

std::uint32_t MmioTransport::read_register(std::uint64_t offset) {
  switch (offset) {
    case kMagicValue:
      return kMagic;
    case kVersion:
      return kMmioVersion;
    case kDeviceId:
      return static_cast<std::uint32_t>(device_.type());
    case kVendorId:
      return kOurVendor;
    case kDeviceFeatures: {
      const std::uint32_t window = state_.device_features_sel;
      return window < 2 ? static_cast<std::uint32_t>(offered_features() >> (32 * window)) : 0;
    }
    case kQueueNumMax:
      return queue_size_limit();
    case kQueueReady: {
      const QueueRegisters* queue = selected_queue();
      return queue != nullptr && queue->ready ? 1 : 0;
    }
    case kInterruptStatus:
      return state_.interrupt_status;
    case kStatus:
      return state_.status;
    // Section 4.2.2: a region that does not exist has length and address -1. None exists.
    case kShmLenLow:
    case kShmLenHigh:
    case kShmBaseLow:
    case kShmBaseHigh:
      return kAllOnes;
    case kConfigGeneration:
      return state_.config_generation;
    default:
      bad_access("read of no readable register", offset);
      return 0;
  }
}

void MmioTransport::write_register(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case kDeviceFeaturesSel:
      state_.device_features_sel = value;
      return;
    case kDriverFeaturesSel:
      state_.driver_features_sel = value;
      return;
    case kDriverFeatures:
      write_driver_features(value);
      return;
    case kQueueSel:
      state_.queue_sel = value;
      return;
    case kQueueNum:
      write_queue_size(value);
      return;
    case kQueueReady:
      write_queue_ready(value);
      return;
    case kQueueNotify:
      notify(value);
      return;
    case kInterruptAck:
      state_.interrupt_status &= ~value;
      return;
    case kStatus:
      write_status(value);
      return;
    case kQueueDescLow:
    case kQueueDescHigh:
    case kQueueDriverLow:
    case kQueueDriverHigh:
    case kQueueDeviceLow:
    case kQueueDeviceHigh:
      write_queue_address(offset, value);
      return;
    case kShmSel:
      return;  // every region answers alike
    default:
      bad_access("write of no writable register", offset);
  }
}

// Features are settled between DRIVER and FEATURES_OK (3.1.1, steps 4 and 5).
void MmioTransport::write_driver_features(std::uint32_t value) {
  if (!has_status(kStatusDriver) || (state_.status & (kStatusFeaturesOk | kStatusFailed)) != 0) {
    return bad_access("write out of turn", kDriverFeatures);
  }
  switch (state_.driver_features_sel) {
    case 0:
      set_low(state_.driver_features, value);
      return;
    case 1:
      set_high(state_.driver_features, value);
      return;
    default:
      state_.features_beyond = state_.features_beyond || value != 0;
  }
}

MmioTransport::QueueRegisters* MmioTransport::selected_queue() {
  return state_.queue_sel < state_.queues.size() ? &state_.queues[state_.queue_sel] : nullptr;
}

std::uint32_t MmioTransport::queue_size_limit() const {
  const auto sizes = device_.queue_sizes();
  return state_.queue_sel < sizes.size() ? sizes[state_.queue_sel] : 0;
}

// The selected queue where its set-up may be changed: after FEATURES_OK (3.1.1, step 7), and never while the
// device is live.
MmioTransport::QueueRegisters* MmioTransport::writable_queue() {
  constexpr std::uint32_t kNotAnyMore = kStatusDriverOk | kStatusFailed | kStatusDeviceNeedsReset;
  if (!has_status(kStatusFeaturesOk) || (state_.status & kNotAnyMore) != 0) return nullptr;
  return selected_queue();
}

void MmioTransport::write_queue_size(std::uint32_t value) {
  QueueRegisters* queue = writable_queue();
  if (queue == nullptr || queue->ready || !std::has_single_bit(value) || value > queue_size_limit()) {
    return bad_access("write of a queue size", kQueueNum);
  }
  queue->size = value;
}

void MmioTransport::write_queue_ready(std::uint32_t value) {
  QueueRegisters* queue = writable_queue();
  if (queue == nullptr || value > 1) return bad_access("write of QueueReady", kQueueReady);
  queue->ready = value == 1;
}

// Section 4.2.2.2: the driver does not touch these while QueueReady is 1.
void MmioTransport::write_queue_address(std::uint64_t offset, std::uint32_t value) {
  QueueRegisters* queue = writable_queue();
  if (queue == nullptr || queue->ready) return bad_access("write of a queue address", offset);
  switch (offset) {
    case kQueueDescLow:
      return set_low(queue->descriptor_table, value);
    case kQueueDescHigh:
      return set_high(queue->descriptor_table, value);
    case kQueueDriverLow:
      return set_low(queue->available_ring, value);
    case kQueueDriverHigh:
      return set_high(queue->available_ring, value);
    case kQueueDeviceLow:
      return set_low(queue->used_ring, value);
    default:
      return set_high(queue->used_ring, value);
  }
}

void MmioTransport::notify(std::uint32_t index) {
  const bool served = active_ && (state_.status & (kStatusFailed | kStatusDeviceNeedsReset)) == 0;
  if (!served || index >= state_.queues.size() || !state_.queues[index].ready) {
    ++metrics_.stray_notifications;
    return;
  }
  ++metrics_.notifications;
  device_.queue_notified(static_cast<std::uint16_t>(index));
}

// ---- Status ----

void MmioTransport::write_status(std::uint32_t value) {
  if (value == 0) return reset();
  if (value == state_.status) return;
  if (value == (state_.status | kStatusFailed)) {
    // The driver gave up: nothing is served until it resets.
    state_.status = value;
    device_.reset();
    active_ = false;
    return;
  }
  if (!is_legal(state_.status, value)) {
    ++metrics_.illegal_transitions;
    if (log_limiter_.allow()) {
      base::log::warning("virtio {}: ignored status {:#x} after {:#x}", name_of(device_.type()), value,
                         state_.status);
    }
    return;
  }
  // Section 3.1.1, step 6: the driver reads Status again and sees that FEATURES_OK was not taken.
  if (value == (state_.status | kStatusFeaturesOk) && !features_acceptable()) return;
  state_.status = value;
  if (has_status(kStatusDriverOk)) start();
}

bool MmioTransport::features_acceptable() {
  const std::uint64_t unknown = state_.driver_features & ~offered_features();
  const bool modern = (state_.driver_features & kFeatureVersion1) != 0;
  if (unknown == 0 && modern && !state_.features_beyond) return true;
  ++metrics_.refused_features;
  if (log_limiter_.allow()) {
    base::log::warning("virtio {}: refused features {:#x} (offered: {:#x})", name_of(device_.type()),
                       state_.driver_features, offered_features());
  }
  return false;
}

// ---- Interrupt ----

void MmioTransport::interrupt(std::uint32_t cause) {
  state_.interrupt_status |= cause;
  ++metrics_.interrupts;
  // Also when the bit was set already: the driver may be between reading it and acknowledging it.
  raise_irq_();
}

void MmioTransport::queue_used() {
  // Section 2.1.2: no used buffer notification before DRIVER_OK.
  if (has_status(kStatusDriverOk)) interrupt(kInterruptUsed);
}

void MmioTransport::config_changed() {
  ++state_.config_generation;
  if (has_status(kStatusDriverOk)) interrupt(kInterruptConfig);
}

void MmioTransport::device_error() {
  if (has_status(kStatusDeviceNeedsReset)) return;
  ++metrics_.device_errors;
  state_.status |= kStatusDeviceNeedsReset;
  // Section 2.1.2: told by a configuration change notification when the driver is running.
  config_changed();
}

// ---- Metrics ----

MmioTransport::Metrics MmioTransport::metrics() {
  const std::lock_guard lock(device_.mutex());
  return metrics_;
}

std::vector<base::MetricGroup> MmioTransport::metric_groups() {
  const std::lock_guard lock(device_.mutex());
  std::vector<base::MetricGroup> groups = device_.metric_groups();
  std::vector<base::Metric>& own = groups.front().metrics;
  own.insert(own.end(), {{"queue_event_count", metrics_.notifications},
                         {"stray_queue_event_count", metrics_.stray_notifications},
                         {"interrupt_count", metrics_.interrupts},
                         {"activate_count", metrics_.activations},
                         {"reset_count", metrics_.resets},
                         {"needs_reset_count", metrics_.device_errors},
                         {"bad_register_access_count", metrics_.bad_accesses},
                         {"illegal_status_count", metrics_.illegal_transitions},
                         {"refused_features_count", metrics_.refused_features}});
  return groups;
}

}  // namespace mayfly::virtio
