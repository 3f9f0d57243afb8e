// The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "base/log.h"
#include "virtio/device.h"

namespace mayfly::virtio {

inline constexpr std::uint64_t kMmioSize = 0x1000;  // one page a device
inline constexpr std::uint32_t kMmioQueueNotify =
    0x50;  // where an ioeventfd (4 bytes, datamatch = index) goes

// Section 2.1: device status bits.
inline constexpr std::uint32_t kStatusAcknowledge = 1;
inline constexpr std::uint32_t kStatusDriver = 2;
inline constexpr std::uint32_t kStatusDriverOk = 4;
inline constexpr std::uint32_t kStatusFeaturesOk = 8;
inline constexpr std::uint32_t kStatusDeviceNeedsReset = 64;
inline constexpr std::uint32_t kStatusFailed = 128;

// Section 4.2.2: bits of InterruptStatus and InterruptACK.
inline constexpr std::uint32_t kInterruptUsed = 1;
inline constexpr std::uint32_t kInterruptConfig = 2;

// The register block of one device. read()/write() may be called from any vCPU thread: both take the device's
// mutex. queue_notified() may be called from any thread as well, takes the mutex itself, and is what an
// ioeventfd's handler calls (so that handler names no mutex to the event loop).
class MmioTransport final : public Interrupt {
 public:
  // The registers of one queue.
  struct QueueRegisters {
    std::uint32_t size = 0;  // QueueNum; 0 until the driver writes a size that is allowed
    bool ready = false;
    std::uint64_t descriptor_table = 0;
    std::uint64_t available_ring = 0;
    std::uint64_t used_ring = 0;
  };

  // What a snapshot keeps. Where each active queue stands is the device's to keep.
  struct State {
    std::uint32_t status = 0;
    std::uint32_t interrupt_status = 0;
    std::uint32_t config_generation = 0;
    std::uint32_t device_features_sel = 0;
    std::uint32_t driver_features_sel = 0;
    std::uint64_t driver_features = 0;
    bool features_beyond = false;  // the driver accepted a feature bit >= 64, all of which are unknown
    std::uint32_t queue_sel = 0;
    std::vector<QueueRegisters> queues;
  };

  // Counted since the transport was made.
  struct Metrics {
    std::uint64_t bad_accesses = 0;         // wrong width, alignment or register; a value that is not allowed
    std::uint64_t illegal_transitions = 0;  // of Status, ignored
    std::uint64_t refused_features = 0;     // FEATURES_OK not granted
    std::uint64_t activations = 0;
    std::uint64_t resets = 0;
    std::uint64_t device_errors = 0;        // DEVICE_NEEDS_RESET set: a malformed queue
    std::uint64_t notifications = 0;        // queue notifications passed to the device
    std::uint64_t stray_notifications = 0;  // for a queue that is not active
    std::uint64_t interrupts = 0;
  };

  // Whether a write is more than one of registers: the device may be started, reset, or told of work.
  [[nodiscard]] static bool reaches_device(std::uint64_t offset, std::span<const std::byte> in);

  // `device` and `memory` outlive the transport. `raise_irq` triggers the device's interrupt line (edge); it
  // is called with the device's mutex held, from any thread.
  MmioTransport(VirtioDevice& device, const base::GuestMemory& memory, std::function<void()> raise_irq);
  // Resets the device, so that it holds no queue and no interrupt of ours.
  ~MmioTransport() override;
  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  // Offsets within the page. A register access that 4.2.2.2 does not allow (not 32 bits wide, not aligned)
  // reads as all ones; a register that does not exist or is write-only reads as zero; neither is written, and
  // both are counted. Configuration space takes accesses of 1, 2, 4 and 8 bytes.
  void read(std::uint64_t offset, std::span<std::byte> out);
  void write(std::uint64_t offset, std::span<const std::byte> in);
  void queue_notified(std::uint16_t index);
  // As if the driver had notified every active queue: for a machine that goes on after it was saved and
  // restored, because a notification that was on its way then is lost. Needless ones do no harm.
  void notify_all_queues();

  [[nodiscard]] VirtioDevice& device() { return device_; }

  [[nodiscard]] Metrics metrics();
  // The device's, with those of the transport in its first group.
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups();
  [[nodiscard]] State save();
  // On a fresh transport: takes the registers over and, where the driver was running, activates the device
  // with its queues at `queue_states` (by queue index, from the device's own state). An error: the state does
  // not fit this device or this memory.
  base::Status restore(const State& state, std::span<const Queue::State> queue_states);

  // Interrupt; the device's mutex is held.
  void queue_used() override;
  void config_changed() override;
  void device_error() override;

 private:
  [[nodiscard]] std::uint64_t offered_features() const;
  [[nodiscard]] bool has_status(std::uint32_t bits) const { return (state_.status & bits) == bits; }
  [[nodiscard]] QueueRegisters* selected_queue();
  QueueRegisters* writable_queue();
  [[nodiscard]] std::uint32_t queue_size_limit() const;

  std::uint32_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void write_driver_features(std::uint32_t value);
  void write_queue_size(std::uint32_t value);
  void write_queue_ready(std::uint32_t value);
  void write_queue_address(std::uint64_t offset, std::uint32_t value);
  void notify(std::uint32_t index);

  bool features_acceptable();
  void start();
  base::Status activate(std::span<const Queue::State> queue_states);
  void reset();
  void interrupt(std::uint32_t cause);
  void bad_access(const char* what, std::uint64_t offset);

  VirtioDevice& device_;
  const base::GuestMemory& memory_;
  std::function<void()> raise_irq_;
  // All guarded by the device's mutex.
  State state_;
  bool active_ = false;  // the device holds queues of ours
  Metrics metrics_;
  base::log::Limiter log_limiter_;
};

}  // namespace mayfly::virtio
