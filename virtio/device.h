// What a virtio device is to its transport, and a transport to its device (virtio 1.2, section 2).
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "base/metric.h"
#include "base/result.h"
#include "virtio/queue.h"

namespace mayfly::virtio {

// Section 5: the device IDs we implement.
enum class DeviceType : std::uint32_t { kNet = 1, kBlock = 2, kVsock = 19 };

// Section 6: feature bits that belong to no device type.
inline constexpr std::uint64_t kFeatureIndirectDesc = 1ULL << 28U;
inline constexpr std::uint64_t kFeatureEventIdx = 1ULL << 29U;
inline constexpr std::uint64_t kFeatureVersion1 = 1ULL << 32U;

// How a device reaches its driver. Implemented by the transport; any thread that holds the device's mutex.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  // A used buffer notification (2.3): some queue has new used elements.
  virtual void queue_used() = 0;
  // A configuration change notification; also moves the config generation on.
  virtual void config_changed() = 0;
  // The driver broke a queue: DEVICE_NEEDS_RESET (2.1.2) and a configuration change notification. Nothing of
  // the device's is served until the driver resets it; the VM lives on.
  virtual void device_error() = 0;
};

// What exists only while a device is active: from DRIVER_OK until reset.
struct Activation {
  std::uint64_t features;           // what was negotiated, a subset of what was offered
  const base::GuestMemory* memory;  // outlives the activation
  Interrupt* interrupt;             // outlives the activation
  std::vector<Queue> queues;        // by queue index; one the driver left disabled is default-constructed
};

// What VirtioDevice::read_config() answers from a whole configuration space: zeros past its end.
inline void copy_config(std::span<const std::byte> space, std::uint32_t offset, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
  if (offset >= space.size()) return;
  std::ranges::copy(space.subspan(offset, std::min(out.size(), space.size() - offset)), out.begin());
}

// One virtio device.
//
// Threads: vCPU threads (register access), the event loop's thread (queue notifications, host events) and the
// VMM's control actions all call in with mutex() held; whatever a device registers with the event loop names
// mutex() too. So a device's own code needs no other lock, and never takes this one itself.
class VirtioDevice {
 public:
  virtual ~VirtioDevice() = default;

  [[nodiscard]] virtual DeviceType type() const = 0;
  // Device-specific bits and the ring features it can live with; the transport adds VERSION_1.
  [[nodiscard]] virtual std::uint64_t offered_features() const = 0;
  // The largest size of each queue (a power of two, at most 32768). Constant.
  [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;
  // Device-specific configuration space; offset + size is whatever the guest asked for. Bytes past the end of
  // the space read as zero and are not written.
  virtual void read_config(std::uint32_t offset, std::span<std::byte> out) const = 0;
  virtual void write_config(std::uint32_t offset, std::span<const std::byte> in) = 0;
  // The driver set DRIVER_OK. An error makes the device DEVICE_NEEDS_RESET.
  virtual base::Status activate(Activation activation) = 0;
  // The driver wrote this queue's index to QueueNotify (only while active, only queues that are ready).
  virtual void queue_notified(std::uint16_t index) = 0;
  // Back to before activate(): drains or drops what is in flight so that guest memory is not touched any more
  // after it returns. Also called when the device is not active.
  virtual void reset() = 0;
  // Waits until no work that was begun earlier touches guest memory any more; what that work completes is
  // announced. The device stays active: the machine pauses.
  virtual void quiesce() {}
  // What it counted. Its first group is its own, to which the transport adds.
  [[nodiscard]] virtual std::vector<base::MetricGroup> metric_groups() const = 0;

  [[nodiscard]] std::mutex& mutex() { return mutex_; }

  // The transport that the device is behind, or null: whom to tell of a configuration change at any time,
  // also before activate() (the config generation moves, the driver is not interrupted).
  void attach(Interrupt* transport) { transport_ = transport; }

 protected:
  [[nodiscard]] Interrupt* transport() const { return transport_; }

 private:
  std::mutex mutex_;
  Interrupt* transport_ = nullptr;
};

}  // namespace mayfly::virtio
