#include "virtio/block/device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "base/log.h"
#include "virtio/block/request.h"

namespace mayfly::virtio::block {

using base::Result;

namespace {

// A batch that moved this many bytes tells the driver before it goes on, so that the guest works meanwhile.
constexpr std::uint64_t kNotifyBytes = 1U << 20U;

// Section 5.2.4: the configuration space up to the last field that we offer the feature for.
struct ConfigSpace {
  base::Le64 capacity;  // sectors of 512 bytes
  base::Le32 size_max;
  base::Le32 seg_max;
  base::Le32 geometry;
  base::Le32 blk_size;
};
static_assert(sizeof(ConfigSpace) == 24 && base::Wire<ConfigSpace>);

class DeviceImpl final : public Device {
 public:
  DeviceImpl(const Config& config, BackendOpener opener, std::unique_ptr<Backend> backend, std::uint64_t size)
      : config_(config), opener_(std::move(opener)), backend_(std::move(backend)) {
    set_size(size);
    space_.seg_max = kQueueSize - 2U;  // a header and a status besides the data
    space_.blk_size = kSectorSize;
  }

  // Once, before first use: a timer needs an object that stays where it is.
  base::Status prepare(base::EventLoop& loop) {
    rest_ = TRY(base::Timer::create(
        loop, [this] { process(); }, &mutex()));
    return {};
  }

  [[nodiscard]] DeviceType type() const override { return DeviceType::kBlock; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    std::uint64_t features = kFeatureIndirectDesc | kFeatureEventIdx | kFeatureSegMax | kFeatureBlkSize;
    if (config_.read_only) features |= kFeatureReadOnly;
    if (config_.cache_type == CacheType::kWriteback) features |= kFeatureFlush;
    return features;
  }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override {
    static constexpr std::array<std::uint16_t, 1> kSizes = {kQueueSize};
    return kSizes;
  }

  void read_config(std::uint32_t offset, std::span<std::byte> out) const override {
    const auto space = std::as_bytes(std::span(&space_, 1));
    std::ranges::fill(out, std::byte{0});
    if (offset >= space.size()) return;
    std::ranges::copy(space.subspan(offset, std::min(out.size(), space.size() - offset)), out.begin());
  }
  // No field of ours is the driver's to write.
  void write_config(std::uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  base::Status activate(Activation activation) override {
    if (activation.queues.empty() || !activation.queues[0].ready()) {
      return base::fail("the driver set no queue up");
    }
    active_ = std::move(activation);
    return {};
  }
  void queue_notified(std::uint16_t /*index*/) override { process(); }
  void reset() override {
    rest_->cancel();
    active_.reset();
  }

  base::Status update(const std::string& path) override {
    std::unique_ptr<Backend> opened;
    if (!path.empty()) opened = TRY(opener_(path, config_.read_only));
    set_size(TRY((opened ? opened : backend_)->size()));
    if (opened) backend_ = std::move(opened);
    ++metrics_.updates;
    if (transport() != nullptr) transport()->config_changed();
    return {};
  }

  [[nodiscard]] Metrics metrics() const override { return metrics_; }
  [[nodiscard]] State save() const override {
    return {.queue = active_ ? active_->queues[0].save() : Queue::State{}};
  }

 private:
  void set_size(std::uint64_t bytes) { space_.capacity = bytes / kSectorSize; }

  [[nodiscard]] Disk disk() const {
    return {.sectors = space_.capacity,
            .read_only = config_.read_only,
            .flush = (active_->features & kFeatureFlush) != 0};
  }

  void process();
  bool process_some(Queue& queue);
  void serve(Queue& queue, Chain chain);
  RequestStatus execute(Chain& chain);
  RequestStatus refuse(Refusal refusal);
  RequestStatus read(const Request& request, Writer& data);
  RequestStatus write(const Request& request, Reader& data);
  RequestStatus flush();
  RequestStatus get_id(Writer& data) const;
  void disk_failed(const base::Error& error);
  void break_down(const base::Error& error);

  Config config_;
  BackendOpener opener_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<base::Timer> rest_;  // fires when a batch ended with chains left
  ConfigSpace space_;
  std::optional<Activation> active_;
  Metrics metrics_;
  std::uint64_t unannounced_bytes_ = 0;  // moved since the driver was last told
  base::log::Limiter disk_limiter_;
  base::log::Limiter queue_limiter_;
};

// ---- The queue ----

void DeviceImpl::process() {
  if (!active_) return;
  Queue& queue = active_->queues[0];
  const bool more = process_some(queue);
  // process_some() may have found the queue broken.
  if (!active_) return;
  if (queue.should_notify()) active_->interrupt->queue_used();
  unannounced_bytes_ = 0;
  if (more) rest_->set(std::chrono::nanoseconds(0));
}

// Whether it stopped with chains left.
bool DeviceImpl::process_some(Queue& queue) {
  queue.disable_notifications();
  for (unsigned served = 0; served < kBatch;) {
    auto popped = queue.pop();
    if (!popped) {
      break_down(popped.error());
      return false;
    }
    if (*popped) {
      serve(queue, std::move(**popped));
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

void DeviceImpl::break_down(const base::Error& error) {
  ++metrics_.malformed_queues;
  if (queue_limiter_.allow()) {
    base::log::warning("drive {}: the driver broke its queue: {}", config_.id, error.message);
  }
  Interrupt& interrupt = *active_->interrupt;
  // What was served before the error is announced all the same.
  if (active_->queues[0].should_notify()) interrupt.queue_used();
  active_.reset();
  interrupt.device_error();
}

// ---- One request ----

void DeviceImpl::serve(Queue& queue, Chain chain) {
  const std::uint64_t writable = chain.writer().remaining();
  if (writable == 0) {
    // Nowhere to put a status.
    ++metrics_.malformed_requests;
    queue.push(std::move(chain), 0);
    return;
  }
  Writer status = chain.writer().split_tail(1);
  const RequestStatus outcome = execute(chain);
  // Section 2.7.8.2: the driver may believe what lies within the used length only, and the status is at the
  // end of it. So what was not filled before the status is zeroed, and all of it counts as written.
  for (const std::span<std::byte> rest : chain.writer().take_spans(chain.writer().remaining())) {
    std::ranges::fill(rest, std::byte{0});
  }
  status.write_object(outcome);
  // A chain is shorter than 2^32 bytes (Queue::pop).
  queue.push(std::move(chain), static_cast<std::uint32_t>(writable));
  if (unannounced_bytes_ >= kNotifyBytes) {
    unannounced_bytes_ = 0;
    if (queue.should_notify()) active_->interrupt->queue_used();
  }
}

// `chain` without its status byte.
RequestStatus DeviceImpl::execute(Chain& chain) {
  const auto header = chain.reader().read_object<RequestHeader>();
  const auto request = parse(header, chain.reader().remaining(), chain.writer().remaining(), disk());
  if (!request) return refuse(request.error());
  switch (request->operation) {
    case Operation::kRead:
      return read(*request, chain.writer());
    case Operation::kWrite:
      return write(*request, chain.reader());
    case Operation::kFlush:
      return flush();
    case Operation::kGetId:
      return get_id(chain.writer());
  }
  return RequestStatus::kUnsupported;
}

RequestStatus DeviceImpl::refuse(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnsupportedType:
      ++metrics_.unsupported_requests;
      break;
    case Refusal::kOutOfRange:
      ++metrics_.out_of_range;
      break;
    case Refusal::kReadOnly:
      ++metrics_.read_only_writes;
      break;
    case Refusal::kNoHeader:
    case Refusal::kNotWholeSectors:
    case Refusal::kNoRoom:
      ++metrics_.malformed_requests;
      break;
  }
  return status_of(refusal);
}

RequestStatus DeviceImpl::read(const Request& request, Writer& data) {
  const auto spans = data.take_spans(request.length);
  if (auto done = backend_->read(spans, request.offset); !done) {
    ++metrics_.read_errors;
    if (done.error().code == 0) ++metrics_.short_reads;
    disk_failed(done.error());
    // Nothing half-read is left for the driver to find.
    for (const auto& span : spans) std::ranges::fill(span, std::byte{0});
    return RequestStatus::kIoError;
  }
  ++metrics_.reads;
  metrics_.read_bytes += request.length;
  unannounced_bytes_ += request.length;
  return RequestStatus::kOk;
}

RequestStatus DeviceImpl::write(const Request& request, Reader& data) {
  auto done = backend_->write(data.take_spans(request.length), request.offset);
  // Section 5.2.6.2: a driver that was offered FLUSH and declined it may take writes for stable.
  const bool write_through = config_.cache_type == CacheType::kWriteback && !disk().flush;
  if (done && write_through) done = backend_->flush();
  if (!done) {
    ++metrics_.write_errors;
    if (done.error().code == ENOSPC || done.error().code == EDQUOT) ++metrics_.no_space;
    disk_failed(done.error());
    return RequestStatus::kIoError;
  }
  ++metrics_.writes;
  metrics_.written_bytes += request.length;
  unannounced_bytes_ += request.length;
  return RequestStatus::kOk;
}

RequestStatus DeviceImpl::flush() {
  if (auto done = backend_->flush(); !done) {
    ++metrics_.flush_errors;
    disk_failed(done.error());
    return RequestStatus::kIoError;
  }
  ++metrics_.flushes;
  return RequestStatus::kOk;
}

// Section 5.2.6.2: up to 20 bytes, padded with zeros, not terminated when all are used.
RequestStatus DeviceImpl::get_id(Writer& data) const {
  std::array<char, kIdSize> id{};
  std::copy_n(config_.id.begin(), std::min(config_.id.size(), id.size()), id.begin());
  data.write(std::as_bytes(std::span(id)));
  return RequestStatus::kOk;
}

void DeviceImpl::disk_failed(const base::Error& error) {
  if (disk_limiter_.allow()) base::log::warning("drive {}: {}", config_.id, error.message);
}

}  // namespace

Result<std::unique_ptr<Device>> Device::create(const Config& config, base::EventLoop& loop) {
  return create(config, loop, open_file_backend);
}

Result<std::unique_ptr<Device>> Device::create(const Config& config, base::EventLoop& loop,
                                               BackendOpener opener) {
  auto backend = opener(config.path, config.read_only);
  if (!backend) return fail_because(std::move(backend).error(), "drive {}", config.id);
  auto size = (*backend)->size();
  if (!size) return fail_because(std::move(size).error(), "drive {}", config.id);
  auto device = std::make_unique<DeviceImpl>(config, std::move(opener), std::move(*backend), *size);
  TRY(device->prepare(loop));
  return device;
}

}  // namespace mayfly::virtio::block
