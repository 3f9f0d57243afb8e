#include "virtio/block/device.h"

#include <algorithm>
#include <bitset>
#include <optional>

#include "base/log.h"
#include "virtio/block/config_space.h"
#include "virtio/block/requests.h"

namespace mayfly::virtio::block {

using base::Result;

namespace {

// A batch that moved this many bytes tells the driver before it goes on, so that the guest works meanwhile.
constexpr std::uint64_t kNotifyBytes = 1U << 20U;

// Section 5.2.4, seg_max: a header and a status besides the data.
constexpr std::uint32_t kMostSegments = kQueueSize - 2U;

class DeviceImpl final : public Device, private Completions {
 public:
  DeviceImpl(const Config& config, std::uint16_t queues, base::EventLoop& loop, BackendOpener opener)
      : config_(config),
        loop_(loop),
        opener_(std::move(opener)),
        queue_sizes_(std::clamp<std::uint16_t>(queues, 1, kMostQueues), kQueueSize),
        limiter_(config.rate_limiter, Clock::now()),
        requests_(config.id) {}
  ~DeviceImpl() override {
    if (requests_.has_backend()) reset();
  }
  DeviceImpl(const DeviceImpl&) = delete;
  DeviceImpl& operator=(const DeviceImpl&) = delete;

  // Once, before first use: a timer and a backend need an object that stays where it is.
  base::Status prepare() {
    rest_ = TRY(base::Timer::create(
        loop_, [this] { next_turn(); }, &mutex()));
    auto backend = TRY(open(config_.path, config_.io_engine));
    const std::uint64_t size = TRY(backend->size());
    const Geometry geometry = backend->geometry();
    requests_.use(std::move(backend));
    discards_ = geometry.discards && !config_.read_only;
    space_ = describe(geometry, kMostSegments, discards_);
    if (queue_sizes_.size() > 1) space_.num_queues = static_cast<std::uint16_t>(queue_sizes_.size());
    set_size(size);
    return {};
  }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBlock; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    std::uint64_t features = kFeatureIndirectDesc | kFeatureEventIdx | kFeatureSizeMax | kFeatureSegMax |
                             kFeatureBlkSize | kFeatureTopology;
    if (config_.read_only) features |= kFeatureReadOnly;
    if (config_.cache_type == CacheType::kWriteback) features |= kFeatureFlush;
    if (queue_sizes_.size() > 1) features |= kFeatureMultiQueue;
    if (discards_) features |= kFeatureDiscard | kFeatureWriteZeroes;
    return features;
  }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return queue_sizes_; }

  void read_config(std::uint32_t offset, std::span<std::byte> out) const override {
    copy_config(std::as_bytes(std::span(&space_, 1)), offset, out);
  }
  // No field of ours is the driver's to write.
  void write_config(std::uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  base::Status activate(Activation activation) override;
  void queue_notified(std::uint16_t index) override;
  void reset() override;
  void quiesce() override;

  base::Status update(const std::string& path) override;
  void update(const RateLimiterConfig& limiter) override;
  [[nodiscard]] Metrics metrics() const override { return requests_.metrics(); }
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() const override {
    return {{"block_" + config_.id, list(metrics())}};
  }
  [[nodiscard]] State save() const override;

 private:
  // Completions
  void completed(std::uint32_t token, const base::Status& outcome) override {
    requests_.completed(token, outcome);
  }
  void settled() override;

  Result<std::unique_ptr<Backend>> open(const std::string& path, IoEngine engine) {
    return opener_(path, Opening{.read_only = config_.read_only,
                                 .engine = engine,
                                 .loop = loop_,
                                 .mutex = mutex(),
                                 .completions = *this});
  }
  void set_size(std::uint64_t bytes) { space_.capacity = bytes / kSectorSize; }
  [[nodiscard]] bool negotiated(std::uint64_t features) const {
    return (active_->features & features) == features;
  }
  [[nodiscard]] Disk disk() const;
  // Section 5.2.6.2: a driver that was offered FLUSH and declined it may take writes for stable.
  [[nodiscard]] bool write_through() const {
    return config_.cache_type == CacheType::kWriteback && !negotiated(kFeatureFlush);
  }

  void turn(std::size_t index);
  void next_turn();
  void wait_for_turn();
  bool serve_some(Queue& queue);
  std::chrono::nanoseconds throttle();
  void begin(Queue& queue, Chain chain);
  void announce();
  void break_down(const base::Error& error);

  Config config_;
  base::EventLoop& loop_;
  BackendOpener opener_;
  std::vector<std::uint16_t> queue_sizes_;
  std::unique_ptr<base::Timer> rest_;  // fires when some queue is pending_ and there is room
  ConfigSpace space_;
  std::bitset<kMostQueues> pending_;  // chains may be left that no notification will tell of
  std::size_t last_turn_ = 0;         // the queue that had it
  bool discards_ = false;             // offered, whatever file an update brings
  std::optional<Activation> active_;
  RateLimiter limiter_;
  Requests requests_;  // refers to active_
  base::log::Limiter log_limiter_;
};

base::Status DeviceImpl::activate(Activation activation) {
  // Section 5.2.2: without MQ there is one queue, whatever else was set up.
  if ((activation.features & kFeatureMultiQueue) == 0 && activation.queues.size() > 1) {
    std::fill(activation.queues.begin() + 1, activation.queues.end(), Queue());
  }
  if (std::ranges::none_of(activation.queues, &Queue::ready)) return base::fail("the driver set no queue up");
  active_ = std::move(activation);
  return {};
}

void DeviceImpl::reset() {
  rest_->cancel();
  pending_.reset();
  requests_.backend().abandon();
  active_.reset();
}

void DeviceImpl::quiesce() {
  requests_.backend().drain();
  announce();
  // What waited for room would be told of it by completions that have come.
  wait_for_turn();
}

void DeviceImpl::settled() {
  announce();
  next_turn();
}

State DeviceImpl::save() const {
  State state;
  if (!active_) return state;
  for (const Queue& queue : active_->queues) state.queues.push_back(queue.save());
  return state;
}

base::Status DeviceImpl::update(const std::string& path) {
  if (!path.empty() && !config_.overlay_path.empty()) {
    return base::fail(
        "drive {}: its overlay {} belongs to {}, so another backing file is not to be had: flatten the "
        "overlay, "
        "or start a machine with another one",
        config_.id, config_.overlay_path, config_.path);
  }
  std::unique_ptr<Backend> opened;
  if (!path.empty() && !TRY(requests_.backend().move_to(path, config_.read_only))) {
    // It is synchronous, and so will this be: a process with its system call filters on gets no io_uring.
    opened = TRY(open(path, IoEngine::kSync));
  }
  const std::uint64_t size = TRY(opened ? opened->size() : requests_.backend().size());
  // No request is lost: what is on its way to the old file ends there.
  quiesce();
  set_size(size);
  if (opened) requests_.use(std::move(opened));
  ++requests_.metrics().updates;
  if (transport() != nullptr) transport()->config_changed();
  return {};
}

void DeviceImpl::update(const RateLimiterConfig& limiter) {
  limiter_.update(limiter, Clock::now());
  // What waits for the old one looks at the new one.
  wait_for_turn();
}

Disk DeviceImpl::disk() const {
  Disk disk{.sectors = space_.capacity,
            .read_only = config_.read_only,
            .flush = negotiated(kFeatureFlush),
            .discard = negotiated(kFeatureDiscard),
            .write_zeroes = negotiated(kFeatureWriteZeroes)};
  // Section 5.2.3: with both, a driver keeps to it. Without one, a request may be of any length.
  if (negotiated(kFeatureSizeMax | kFeatureSegMax)) {
    disk.most_bytes = std::uint64_t{kLargestSegment} * kMostSegments;
  }
  return disk;
}

// ---- The queues ----

void DeviceImpl::queue_notified(std::uint16_t index) {
  if (active_ && active_->queues[index].ready()) turn(index);
}

void DeviceImpl::turn(std::size_t index) {
  last_turn_ = index;
  pending_[index] = serve_some(active_->queues[index]);
  // It may have been found broken.
  if (!active_) return;
  requests_.backend().start();
  announce();
  wait_for_turn();
}

// When all there may be are on their way, settled() goes on.
void DeviceImpl::wait_for_turn() {
  if (pending_.any() && !requests_.full()) rest_->set(throttle());
}

// Round and round, so that no queue that is never empty keeps the others waiting.
void DeviceImpl::next_turn() {
  if (pending_.none()) return;
  std::size_t index = last_turn_;
  do {
    index = (index + 1) % kMostQueues;
  } while (!pending_[index]);
  turn(index);
}

// Whether it stopped with chains left.
bool DeviceImpl::serve_some(Queue& queue) {
  queue.disable_notifications();
  for (unsigned served = 0; served < kBatch && !requests_.full();) {
    if (throttle() > std::chrono::nanoseconds(0)) {
      ++requests_.metrics().throttled;
      return true;
    }
    auto popped = queue.pop();
    if (!popped) {
      break_down(popped.error());
      return false;
    }
    if (*popped) {
      begin(queue, std::move(**popped));
      if (requests_.moved_bytes() >= kNotifyBytes) announce();
      ++served;
    } else {
      if (!queue.enable_notifications()) return false;
      // A chain arrived between the last look and the request for notifications, and counts as a turn: a
      // driver that moves its index to and fro must not keep us here.
      queue.disable_notifications();
      ++served;
    }
  }
  return true;
}

// How long the next request has to wait for the rate limiter.
std::chrono::nanoseconds DeviceImpl::throttle() {
  return limiter_.limits() ? limiter_.delay(Clock::now()) : std::chrono::nanoseconds(0);
}

void DeviceImpl::begin(Queue& queue, Chain chain) {
  if (limiter_.limits()) {
    constexpr std::uint64_t kNoData = sizeof(RequestHeader) + 1;  // with the status
    const std::uint64_t bytes = chain.reader().remaining() + chain.writer().remaining();
    limiter_.take(bytes - std::min(bytes, kNoData), Clock::now());
  }
  requests_.begin(queue, std::move(chain), disk(), write_through());
}

// Tells the driver of what was answered.
void DeviceImpl::announce() {
  requests_.take_moved_bytes();
  if (!active_) return;
  bool wanted = false;
  for (Queue& queue : active_->queues) wanted = (queue.ready() && queue.should_notify()) || wanted;
  if (wanted) active_->interrupt->queue_used();
}

void DeviceImpl::break_down(const base::Error& error) {
  ++requests_.metrics().malformed_queues;
  if (log_limiter_.allow()) {
    base::log::warning("drive {}: the driver broke its queue: {}", config_.id, error.message);
  }
  Interrupt& interrupt = *active_->interrupt;
  pending_.reset();
  // What was taken before the error is answered and announced all the same.
  requests_.backend().drain();
  announce();
  active_.reset();
  interrupt.device_error();
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(const Config& config, std::uint16_t queues,
                                               base::EventLoop& loop) {
  if (config.overlay_path.empty()) return create(config, queues, loop, open_file_backend);
  return create(config, queues, loop,
                [overlay = config.overlay_path](const std::string& path, const Opening& opening) {
                  return open_overlay_backend(overlay, path, opening);
                });
}

Result<std::unique_ptr<Device>> Device::create(const Config& config, std::uint16_t queues,
                                               base::EventLoop& loop, BackendOpener opener) {
  auto device = std::make_unique<DeviceImpl>(config, queues, loop, std::move(opener));
  if (auto prepared = device->prepare(); !prepared) {
    return fail_because(std::move(prepared).error(), "drive {}", config.id);
  }
  return device;
}

}  // namespace mayfly::virtio::block
