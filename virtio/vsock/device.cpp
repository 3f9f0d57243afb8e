#include "virtio/vsock/device.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <utility>

#include "base/log.h"
#include "virtio/queue.h"
#include "virtio/vsock/multiplexer.h"
#include "virtio/vsock/packet.h"

namespace mayfly::virtio::vsock {

using base::Result;
using base::Status;

namespace {

// Section 5.10.2.
constexpr std::size_t kRxQueue = 0;
constexpr std::size_t kTxQueue = 1;
constexpr std::array<std::uint16_t, 3> kQueueSizes = {256, 256, 256};  // rx, tx, event

// Section 5.10.3.
constexpr std::uint64_t kFeatureStream = 1;

constexpr std::uint32_t kSmallestCid = 3;  // section 5.10.4: 0 to 2 are reserved
constexpr std::uint32_t kAnyCid = 0xffffffff;

// How much of a queue is served before the event loop's other handlers get their turn, and a vCPU that waits
// for the device's mutex its own.
class Turn {
 public:
  [[nodiscard]] bool over() const { return packets_ == 0 || bytes_ <= 0; }
  void spend(std::uint64_t bytes) {
    --packets_;
    bytes_ -= static_cast<std::int64_t>(bytes);
  }

 private:
  std::uint32_t packets_ = 128;
  std::int64_t bytes_ = 512 << 10;
};

class SocketDevice final : public Device {
 public:
  static Result<std::unique_ptr<SocketDevice>> create(const Config& config, base::EventLoop& loop,
                                                      const Limits& limits) {
    std::unique_ptr<SocketDevice> device(new SocketDevice(config));
    SocketDevice* self = device.get();
    device->next_turn_ = TRY(base::Timer::create(
        loop, [self] { self->serve(); }, &self->mutex()));
    device->multiplexer_ = TRY(
        Multiplexer::create(config, limits, loop, self->mutex(), self->counters_, [self] { self->serve(); }));
    return device;
  }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kVsock; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    return kFeatureStream | kFeatureEventIdx | kFeatureIndirectDesc;
  }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kQueueSizes; }

  // Section 5.10.4: guest_cid, of which the upper 32 bits are zero.
  void read_config(std::uint32_t offset, std::span<std::byte> out) const override {
    const base::Le64 guest_cid = std::uint64_t{config_.guest_cid};
    copy_config(std::as_bytes(std::span(&guest_cid, 1)), offset, out);
  }
  void write_config(std::uint32_t, std::span<const std::byte>) override {}  // the driver writes nothing there

  Status activate(Activation activation) override;
  void queue_notified(std::uint16_t index) override;
  void reset() override;

  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() const override {
    return {{"vsock", list(counters_)}};
  }
  [[nodiscard]] State save() const override {
    return {.guest_cid = config_.guest_cid, .uds_path = config_.uds_path, .counters = counters_};
  }
  void restore(const State& state) override { counters_ = state.counters; }
  [[nodiscard]] std::size_t connection_count() const override { return multiplexer_->connection_count(); }

 private:
  explicit SocketDevice(const Config& config) : config_(config) {}
  void serve();
  void serve_transmitted();
  void serve_receivers();
  std::optional<Chain> next_chain(Queue& queue);
  void notify();
  void end_activation();

  Config config_;
  Counters counters_;
  std::unique_ptr<base::Timer> next_turn_;
  std::unique_ptr<Multiplexer> multiplexer_;

  // From activate() until reset(), or until the driver breaks a queue.
  Interrupt* interrupt_ = nullptr;
  Queue rx_;
  Queue tx_;
  bool tx_pending_ = false;  // the driver may have made packets available that were not looked at
  bool more_ = false;        // another turn is wanted
};

Status SocketDevice::activate(Activation activation) {
  if (activation.queues.size() <= kTxQueue || !activation.queues[kRxQueue].ready() ||
      !activation.queues[kTxQueue].ready()) {
    return base::fail("vsock: the driver set up no receive queue or no transmit queue");
  }
  interrupt_ = activation.interrupt;
  rx_ = std::move(activation.queues[kRxQueue]);
  tx_ = std::move(activation.queues[kTxQueue]);
  // Section 5.10.6.7: the only event is TRANSPORT_RESET, for a guest that was moved. None happens here, so
  // the buffers of the event queue stay with us.
  multiplexer_->start();
  // A driver, or a snapshot, may have made packets available before.
  tx_pending_ = true;
  next_turn_->set(std::chrono::nanoseconds(0));
  return {};
}

void SocketDevice::queue_notified(std::uint16_t index) {
  if (index == kTxQueue) tx_pending_ = true;
  if (index == kTxQueue || index == kRxQueue) serve();
}

void SocketDevice::reset() {
  end_activation();
}

void SocketDevice::end_activation() {
  interrupt_ = nullptr;
  rx_ = Queue();
  tx_ = Queue();
  tx_pending_ = more_ = false;
  next_turn_->cancel();
  multiplexer_->stop();
}

// Everything that happened ends here: packets from the guest, then packets to it, then one interrupt for all.
void SocketDevice::serve() {
  if (interrupt_ == nullptr) return;
  more_ = false;
  serve_transmitted();
  serve_receivers();
  notify();
  // Packets of the guest's were left because too many RSTs waited for it, and now there is room again.
  if (tx_pending_ && multiplexer_->accepts_packets()) more_ = true;
  if (interrupt_ != nullptr && more_) next_turn_->set(std::chrono::nanoseconds(0));
}

std::optional<Chain> SocketDevice::next_chain(Queue& queue) {
  auto chain = queue.pop();
  if (chain) return std::move(*chain);
  ++counters_.queue_errors;
  base::log::warning("vsock: the driver broke a queue: {}", chain.error().message);
  Interrupt* interrupt = interrupt_;
  end_activation();
  interrupt->device_error();
  return std::nullopt;
}

void SocketDevice::serve_transmitted() {
  if (!tx_pending_) return;
  tx_.disable_notifications();
  Turn turn;
  while (multiplexer_->accepts_packets()) {
    if (turn.over()) {
      more_ = true;
      return;
    }
    auto chain = next_chain(tx_);
    if (interrupt_ == nullptr) return;
    if (!chain) {
      tx_pending_ = tx_.enable_notifications();
      if (!tx_pending_) return;
      turn.spend(0);
      continue;
    }
    const std::uint64_t size = chain->reader().remaining();
    const auto header = chain->reader().read_object<Header>();
    if (header) {
      multiplexer_->receive(*header, chain->reader());
    } else {
      ++counters_.malformed_packets;
    }
    turn.spend(std::min<std::uint64_t>(size, kMaxPayload));
    tx_.push(std::move(*chain), 0);
  }
}

void SocketDevice::serve_receivers() {
  if (interrupt_ == nullptr || !multiplexer_->has_packets()) return;
  // New receive buffers are no news while there are some; they are once the queue runs empty, below.
  rx_.disable_notifications();
  Turn turn;
  while (multiplexer_->has_packets()) {
    if (turn.over()) {
      more_ = true;
      return;
    }
    auto chain = next_chain(rx_);
    if (interrupt_ == nullptr) return;
    if (!chain) {
      // The driver's next notification goes on from here.
      if (!rx_.enable_notifications()) return;
      turn.spend(0);
      continue;
    }
    const auto written = multiplexer_->send(chain->writer());
    turn.spend(written.value_or(0));
    if (written) {
      rx_.push(std::move(*chain), *written);
    } else {
      rx_.undo_pop(std::move(*chain));
    }
  }
}

void SocketDevice::notify() {
  if (interrupt_ == nullptr) return;
  const bool rx = rx_.should_notify();
  const bool tx = tx_.should_notify();
  if (rx || tx) interrupt_->queue_used();
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(const Config& config, base::EventLoop& loop,
                                               const Limits& limits) {
  if (config.guest_cid < kSmallestCid || config.guest_cid == kAnyCid) {
    return base::fail("vsock: guest_cid {} is reserved; use one from {} to {}", config.guest_cid,
                      kSmallestCid, kAnyCid - 1);
  }
  auto device = SocketDevice::create(config, loop, limits);
  if (!device) return base::fail_because(std::move(device).error(), "vsock: uds_path");
  return std::move(*device);
}

}  // namespace mayfly::virtio::vsock
