// The virtio block device (virtio 1.2, section 5.2).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/block/backend.h"
#include "virtio/block/metrics.h"
#include "virtio/device.h"
#include "virtio/rate_limiter.h"

namespace mayfly::virtio::block {

enum class CacheType { kUnsafe, kWriteback };  // whether the guest is offered FLUSH

struct Config {
  std::string id;                 // drive_id; what GET_ID answers, cut to 20 bytes
  std::string path;               // a regular file or a block device, a multiple of 512 bytes long
  std::string overlay_path = {};  // where writes go, with `path` as its base; empty: to `path`
  bool read_only = false;
  CacheType cache_type = CacheType::kUnsafe;
  IoEngine io_engine = IoEngine::kBest;
  RateLimiterConfig rate_limiter = {};  // a token a byte of data, and one a request
};

// Section 5.2.3: feature bits.
inline constexpr std::uint64_t kFeatureSizeMax = 1ULL << 1U;
inline constexpr std::uint64_t kFeatureSegMax = 1ULL << 2U;
inline constexpr std::uint64_t kFeatureReadOnly = 1ULL << 5U;
inline constexpr std::uint64_t kFeatureBlkSize = 1ULL << 6U;
inline constexpr std::uint64_t kFeatureFlush = 1ULL << 9U;
inline constexpr std::uint64_t kFeatureTopology = 1ULL << 10U;
inline constexpr std::uint64_t kFeatureMultiQueue = 1ULL << 12U;
inline constexpr std::uint64_t kFeatureDiscard = 1ULL << 13U;
inline constexpr std::uint64_t kFeatureWriteZeroes = 1ULL << 14U;

inline constexpr std::uint16_t kQueueSize = 256;
inline constexpr std::uint16_t kMostQueues = 32;

// What a snapshot keeps besides the transport's registers: where each queue stands. Of a device that is
// quiesce()d, so that no request is in flight.
struct State {
  std::vector<Queue::State> queues;  // by index; empty while the device is not active
};

// Requests are taken from a ring on the thread that calls queue_notified(), at most kBatch of them a call;
// what is left is taken up on the loop's thread, kBatch of each queue in turn, between other work. At most
// kMostInFlight are on their way at a time; the asynchronous engine finishes them on the loop's thread.
class Device : public VirtioDevice {
 public:
  static constexpr unsigned kBatch = 64;

  // Opens and checks the file. `queues`: one for each vCPU is best; 1 to kMostQueues. `loop` outlives the
  // device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, std::uint16_t queues,
                                                      base::EventLoop& loop);
  // The same on another kind of disk.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, std::uint16_t queues,
                                                      base::EventLoop& loop, BackendOpener opener);

  // A new backing file, or the same one looked at again when `path` is empty: updates the capacity and tells
  // the driver, once what is in flight is done. An error leaves everything as it was. The new file may be
  // unable to free space: then DISCARD does nothing, and WRITE_ZEROES writes. With an overlay a new file is
  // refused: what is in the overlay belongs to its base. Under mutex().
  virtual base::Status update(const std::string& path) = 0;

  // A new rate limiter, at once; RateLimiter::update() has the rules. Under mutex().
  virtual void update(const RateLimiterConfig& limiter) = 0;

  // Under mutex().
  [[nodiscard]] virtual Metrics metrics() const = 0;
  // Under mutex(). Restored by way of MmioTransport::restore().
  [[nodiscard]] virtual State save() const = 0;
};

}  // namespace mayfly::virtio::block
