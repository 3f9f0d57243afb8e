#include "virtio/net/device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "base/log.h"
#include "virtio/net/buffers.h"
#include "virtio/net/metadata.h"
#include "virtio/net/port.h"

namespace mayfly::virtio::net {

using base::Result;

namespace {

// Section 5.1.4: the configuration space up to the last field that we offer the feature for.
struct ConfigSpace {
  MacAddress mac{};
  base::Le16 status;
  base::Le16 max_virtqueue_pairs;
  base::Le16 mtu;
};
static_assert(sizeof(ConfigSpace) == 12 && base::Wire<ConfigSpace>);
constexpr std::uint16_t kStatusLinkUp = 1;

// How much is moved before others get their turn.
class Turn {
 public:
  [[nodiscard]] bool over() const { return frames_ >= Device::kBatch || bytes_ >= Device::kBatchBytes; }
  void spend(std::uint64_t bytes) {
    ++frames_;
    bytes_ += bytes;
  }

 private:
  unsigned frames_ = 0;
  std::uint64_t bytes_ = 0;
};

class DeviceImpl final : public Device {
 public:
  DeviceImpl(const Config& config, base::EventLoop& loop, std::unique_ptr<Backend> backend)
      : config_(config),
        port_(network_of(config), std::move(backend), loop, mutex(),
              {.ready = [this](bool readable, bool writable) { ready(readable, writable); },
               .link_changed = [this] { link_changed(); }}),
        rx_limiter_(config.rx_rate_limiter, Clock::now()),
        tx_limiter_(config.tx_rate_limiter, Clock::now()) {
    space_.mac = config_.mac;
    space_.status = kStatusLinkUp;
    space_.max_virtqueue_pairs = 1;
    space_.mtu = config_.mtu.value_or(0);
  }

  // Once, before first use: a timer needs an object that stays where it is.
  base::Status prepare(base::EventLoop& loop) {
    rest_ = TRY(base::Timer::create(
        loop, [this] { transmit(); }, &mutex()));
    rx_rest_ = TRY(base::Timer::create(
        loop, [this] { receive(); }, &mutex()));
    if (config_.metadata) {
      metadata_ = TRY(Metadata::create(config_.metadata, loop, mutex(), [this] { answer(); }));
    }
    return {};
  }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kNet; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    const std::uint64_t mtu = config_.mtu ? kFeatureMtu : 0;
    return kFeatureIndirectDesc | kFeatureEventIdx | kFeatureMac | kFeatureStatus | kFeatureMrgRxbuf | mtu |
           port_.offloads();
  }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override {
    static constexpr std::array<std::uint16_t, 2> kSizes = {kQueueSize, kQueueSize};
    return kSizes;
  }

  void read_config(std::uint32_t offset, std::span<std::byte> out) const override {
    copy_config(std::as_bytes(std::span(&space_, 1)), offset, out);
  }
  // Section 5.1.4.2: with VERSION_1 no field is the driver's to write.
  void write_config(std::uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  base::Status activate(Activation activation) override;
  void queue_notified(std::uint16_t index) override;
  void reset() override;
  void update(const RateLimiterConfig& rx, const RateLimiterConfig& tx) override;

  [[nodiscard]] Metrics metrics() const override { return metrics_; }
  [[nodiscard]] mmds::Metrics metadata_metrics() const override {
    return metadata_ ? metadata_->metrics() : mmds::Metrics{};
  }
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() const override {
    std::vector<base::MetricGroup> groups{{"net_" + config_.id, list(metrics_)}};
    if (metadata_) groups.push_back({"mmds", mmds::list(metadata_->metrics())});
    return groups;
  }
  [[nodiscard]] State save() const override {
    if (!active_) return {};
    return {.rx = active_->buffers.rewind(active_->rx.save()), .tx = active_->tx.save()};
  }

 private:
  // From activate() until reset(), or until the driver breaks a queue.
  struct Active {
    std::uint64_t features;  // with_requirements()
    Interrupt* interrupt;
    Queue rx;
    Queue tx;
    ReceiveBuffers buffers;
    bool rx_waits = false;      // for the driver to add buffers
    bool rx_throttled = false;  // waits for rx_rest_
    bool tx_waits = false;      // for the tap to have room
  };

  void ready(bool readable, bool writable);
  void link_changed();
  void watch() { port_.watch(!active_->rx_waits && !active_->rx_throttled, active_->tx_waits); }
  void receive();
  void answer();
  [[nodiscard]] bool answer_waits() const { return metadata_ && metadata_->waiting(); }
  Backend::Moved read_frame(Header& header);
  bool throttle_rx();
  bool receive_one(Turn& turn);
  void deliver(Header header, std::uint64_t length);
  void transmit();
  std::optional<std::chrono::nanoseconds> transmit_some();
  bool send(Reader& frame);
  bool send_checked(Header header, std::span<const std::byte> head, const Reader& rest);
  void announce();
  void break_down(const base::Error& error);
  void deactivate();

  Config config_;
  Port port_;
  RateLimiter rx_limiter_;
  RateLimiter tx_limiter_;
  std::unique_ptr<base::Timer> rest_;  // fires when a turn ended with frames left to send
  // Fires when the rate limiter lets the next frame in, or others had their turn before more answers.
  std::unique_ptr<base::Timer> rx_rest_;
  std::unique_ptr<Metadata> metadata_;  // null: no metadata service
  ConfigSpace space_;
  std::optional<Active> active_;
  std::vector<iovec> pieces_;  // of the frame that is being sent
  Metrics metrics_;
  base::log::Limiter queue_limiter_;
};

// ---- From activation to reset ----

base::Status DeviceImpl::activate(Activation activation) {
  auto& queues = activation.queues;
  if (queues.size() <= kTxQueue || !queues[kRxQueue].ready() || !queues[kTxQueue].ready()) {
    return base::fail("the driver set up no receive queue or no transmit queue");
  }
  const std::uint64_t features = with_requirements(activation.features);
  port_.set_features(features);
  active_.emplace(Active{.features = features,
                         .interrupt = activation.interrupt,
                         .rx = std::move(queues[kRxQueue]),
                         .tx = std::move(queues[kTxQueue]),
                         .buffers = ReceiveBuffers((features & kFeatureMrgRxbuf) != 0)});
  watch();
  // A driver, or a snapshot, may have frames to send already. Buffers are looked at when a frame comes.
  rest_->set(std::chrono::nanoseconds(0));
  return {};
}

void DeviceImpl::reset() {
  const bool was_active = active_.has_value();
  deactivate();
  // What the host queues from now on any driver can take.
  if (was_active) port_.set_features(0);
}

void DeviceImpl::deactivate() {
  if (!active_) return;
  rest_->cancel();
  rx_rest_->cancel();
  port_.unwatch();
  active_->buffers.abandon();
  active_.reset();
  if (metadata_) metadata_->reset();
}

void DeviceImpl::queue_notified(std::uint16_t index) {
  if (!active_) return;
  if (index == kTxQueue) transmit();
  // While buffers are there the driver has no news.
  if (index == kRxQueue && active_ && active_->rx_waits) receive();
}

void DeviceImpl::update(const RateLimiterConfig& rx, const RateLimiterConfig& tx) {
  rx_limiter_.update(rx, Clock::now());
  tx_limiter_.update(tx, Clock::now());
  if (!active_) return;
  // What waits for the old ones looks at the new ones.
  rest_->set(std::chrono::nanoseconds(0));
  if (active_->rx_throttled) rx_rest_->set(std::chrono::nanoseconds(0));
}

void DeviceImpl::announce() {
  // Both are asked: each answer starts a new batch of its queue.
  const bool rx = active_->rx.should_notify();
  const bool tx = active_->tx.should_notify();
  if (rx || tx) active_->interrupt->queue_used();
}

void DeviceImpl::break_down(const base::Error& error) {
  ++metrics_.malformed_queues;
  if (queue_limiter_.allow()) {
    base::log::warning("network interface {}: the driver broke a queue: {}", config_.id, error.message);
  }
  Interrupt& interrupt = *active_->interrupt;
  // What was served before the error is announced all the same.
  announce();
  deactivate();
  interrupt.device_error();
}

// The tap has frames, or room for some.
void DeviceImpl::ready(bool readable, bool writable) {
  if (!active_) return;
  if (writable && std::exchange(active_->tx_waits, false)) transmit();
  if (readable && active_) receive();
  if (active_) watch();
}

void DeviceImpl::link_changed() {
  space_.status = port_.link_up() ? kStatusLinkUp : 0;
  ++metrics_.link_changes;
  // Frames that waited for room are dropped like any other now, soon.
  if (active_ && std::exchange(active_->tx_waits, false)) rest_->set(std::chrono::nanoseconds(0));
  if (transport() != nullptr) transport()->config_changed();
}

// ---- From the metadata service and the tap to the guest ----

void DeviceImpl::receive() {
  if (!active_) return;
  active_->rx_waits = false;
  active_->rx_throttled = false;
  if (!port_.link_up() && !answer_waits()) return watch();
  for (Turn turn; !turn.over() && receive_one(turn);) {
  }
  if (!active_) return;
  announce();
  watch();
  // The tap is watched; of answers that are left only we know.
  const bool blocked = active_->rx_waits || active_->rx_throttled;
  if (answer_waits() && !blocked) rx_rest_->set(std::chrono::nanoseconds(0));
}

// The metadata service has something to say, or may have.
void DeviceImpl::answer() {
  if (active_ && !active_->rx_waits && !active_->rx_throttled && answer_waits()) receive();
}

// The next header and frame, into the receive buffers.
Backend::Moved DeviceImpl::read_frame(Header& header) {
  std::byte beyond{};
  const auto pieces = active_->buffers.pieces(header, beyond);
  if (answer_waits()) return metadata_->read(pieces, active_->buffers.capacity());
  if (!port_.link_up()) return std::unexpected(EAGAIN);
  return port_.read(pieces);
}

// Whether the next frame has to stay where it is for now.
bool DeviceImpl::throttle_rx() {
  if (!rx_limiter_.limits()) return false;
  const auto wait = rx_limiter_.delay(Clock::now());
  if (wait <= wait.zero()) return false;
  active_->rx_throttled = true;
  ++metrics_.rx_throttled;
  rx_rest_->set(wait);
  return true;
}

// Whether to go on.
bool DeviceImpl::receive_one(Turn& turn) {
  if (throttle_rx()) return false;
  ReceiveBuffers& buffers = active_->buffers;
  const auto supply = buffers.gather(active_->rx, metrics_.rx_small_buffers);
  if (!supply) {
    break_down(supply.error());
    return false;
  }
  if (*supply == ReceiveBuffers::Supply::kEmpty) {
    active_->rx_waits = true;
    ++metrics_.rx_waits;
  }
  if (*supply != ReceiveBuffers::Supply::kReady) return false;

  Header header;
  const auto length = read_frame(header);
  if (length) {
    deliver(header, *length);
    turn.spend(*length);
    return true;
  }
  if (length.error() == EAGAIN) return false;
  ++metrics_.rx_errors;
  turn.spend(0);
  // The kernel could not describe this frame in a header; the next may be well.
  return length.error() == EINVAL;
}

// A header and frame of `length` bytes are in the buffers, where they fit.
void DeviceImpl::deliver(Header header, std::uint64_t length) {
  ReceiveBuffers& buffers = active_->buffers;
  if (length > buffers.capacity()) {
    ++metrics_.rx_too_large;
    return;
  }
  if (length < sizeof(Header) + kSmallestFrame || !fit_for_driver(header, active_->features)) {
    ++metrics_.rx_unfit;
    return;
  }
  buffers.finish(active_->rx, header, length);
  ++metrics_.rx_frames;
  metrics_.rx_bytes += length - sizeof(Header);
  if (rx_limiter_.limits()) rx_limiter_.take(length - sizeof(Header), Clock::now());
}

// ---- From the guest to the tap ----

void DeviceImpl::transmit() {
  if (!active_ || active_->tx_waits) return;
  const auto again = transmit_some();
  // transmit_some() may have found the queue broken.
  if (!active_) return;
  announce();
  watch();
  if (again) rest_->set(*again);
  answer();
}

// When to go on, if it stopped with chains left that could be sent.
std::optional<std::chrono::nanoseconds> DeviceImpl::transmit_some() {
  constexpr std::chrono::nanoseconds kAtOnce(0);
  Queue& queue = active_->tx;
  queue.disable_notifications();
  for (Turn turn; !turn.over();) {
    if (tx_limiter_.limits()) {
      const auto wait = tx_limiter_.delay(Clock::now());
      if (wait > kAtOnce) {
        ++metrics_.tx_throttled;
        return wait;
      }
    }
    auto popped = queue.pop();
    if (!popped) {
      break_down(popped.error());
      return std::nullopt;
    }
    if (*popped) {
      Chain chain = std::move(**popped);
      const std::uint64_t length = chain.reader().remaining();
      turn.spend(length);
      if (!send(chain.reader())) {
        queue.undo_pop(std::move(chain));
        active_->tx_waits = true;
        ++metrics_.tx_waits;
        return std::nullopt;
      }
      // A frame that was dropped counts, too: it was work.
      if (tx_limiter_.limits()) tx_limiter_.take(length - std::min(length, sizeof(Header)), Clock::now());
      // Section 2.7.8.2: nothing was written, and writable bytes of the driver's stay as they are.
      queue.push(std::move(chain), 0);
    } else {
      if (!queue.enable_notifications()) return std::nullopt;
      // A chain arrived between the last look and the request for notifications, and counts as a turn: a
      // driver that moves its index to and fro must not keep us here.
      queue.disable_notifications();
      turn.spend(0);
    }
  }
  return kAtOnce;
}

// False when the tap has no room, and the frame is to be tried again; else it is sent or dropped.
bool DeviceImpl::send(Reader& frame) {
  const auto header = frame.read_object<Header>();
  if (!header) {
    ++metrics_.tx_malformed;
    return true;
  }
  const auto checked = check_transmitted(*header, frame.remaining(), active_->features);
  if (!checked) {
    ++metrics_.tx_malformed;
    return true;
  }
  // The guest may change its memory at any time: what is sent is the copy that was checked, as far as
  // anything was. The Ethernet header is whole, because the frame's length was checked.
  std::array<std::byte, mmds::kFrameHead> copy;  // NOLINT(cppcoreguidelines-pro-type-member-init): read below
  const std::span head = std::span(copy).first(
      frame.read(std::span(copy).first(metadata_ ? mmds::kFrameHead : sizeof(EthernetHeader))));
  EthernetHeader ethernet;
  std::memcpy(&ethernet, head.data(), sizeof(ethernet));
  if (ethernet.source != config_.mac && !config_.allow_spoofing) {
    ++metrics_.tx_spoofed;
    return true;
  }
  if (metadata_ && metadata_->take(*checked, head, frame)) return true;
  if (!port_.link_up()) {
    ++metrics_.tx_link_down;
    return true;
  }
  return send_checked(*checked, head, frame);
}

bool DeviceImpl::send_checked(Header header, std::span<const std::byte> head, const Reader& rest) {
  pieces_.clear();
  pieces_.push_back({&header, sizeof(header)});
  // An iovec is for both directions, and writev(2) only reads.
  pieces_.push_back({const_cast<std::byte*>(head.data()), head.size()});  // NOLINT(*-const-cast)
  // Not more than kQueueSize of them (2.7.5.3.1), so that one writev(2) takes them all.
  for (const std::span<std::byte> span : rest.spans()) pieces_.push_back({span.data(), span.size()});
  const auto sent = port_.write(pieces_);
  if (sent) {
    ++metrics_.tx_frames;
    metrics_.tx_bytes += head.size() + rest.remaining();
    return true;
  }
  if (sent.error() == EAGAIN) return false;
  ++metrics_.tx_errors;
  return true;
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(const Config& config, base::EventLoop& loop) {
  if (config.tap.empty() == config.socket_path.empty()) {
    return base::fail("network interface {}: needs either host_dev_name or socket_path", config.id);
  }
  return create(config, loop, config.tap.empty() ? open_stream : open_tap);
}

Result<std::unique_ptr<Device>> Device::create(const Config& config, base::EventLoop& loop,
                                               const BackendOpener& opener) {
  if (!is_station(config.mac)) {
    return base::fail("network interface {}: {} is no address of an interface", config.id,
                      to_text(config.mac));
  }
  if (config.mtu && *config.mtu < kLeastMtu) {
    return base::fail("network interface {}: an MTU of {} is less than {}", config.id, *config.mtu,
                      kLeastMtu);
  }
  auto backend = opener(network_of(config));
  if (!backend) return fail_because(std::move(backend).error(), "network interface {}", config.id);
  auto device = std::make_unique<DeviceImpl>(config, loop, std::move(*backend));
  TRY(device->prepare(loop));
  return device;
}

}  // namespace mayfly::virtio::net
