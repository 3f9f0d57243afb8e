// The virtio block device (virtio 1.2, section 5.2).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/block/backend.h"
#include "virtio/device.h"

namespace mayfly::virtio::block {

enum class CacheType { kUnsafe, kWriteback };  // whether the guest is offered FLUSH

struct Config {
  std::string id;    // drive_id; what GET_ID answers, cut to 20 bytes
  std::string path;  // a regular file or a block device, a multiple of 512 bytes long
  bool read_only = false;
  CacheType cache_type = CacheType::kUnsafe;
};

// Section 5.2.3: feature bits.
inline constexpr std::uint64_t kFeatureSegMax = 1ULL << 2U;
inline constexpr std::uint64_t kFeatureReadOnly = 1ULL << 5U;
inline constexpr std::uint64_t kFeatureBlkSize = 1ULL << 6U;
inline constexpr std::uint64_t kFeatureFlush = 1ULL << 9U;

inline constexpr std::uint16_t kQueueSize = 256;

// Counted since the device was made.
struct Metrics {
  std::uint64_t reads = 0;  // that succeeded, as all of the next five
  std::uint64_t writes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t malformed_requests = 0;    // no header, no room for the answer, not whole sectors
  std::uint64_t unsupported_requests = 0;  // of a type that is unknown or was not negotiated
  std::uint64_t out_of_range = 0;
  std::uint64_t read_only_writes = 0;
  std::uint64_t read_errors = 0;  // the disk failed, as in all of the next four
  std::uint64_t write_errors = 0;
  std::uint64_t flush_errors = 0;
  std::uint64_t short_reads = 0;  // of read_errors: the file ends before its capacity
  std::uint64_t no_space = 0;     // of write_errors: ENOSPC or EDQUOT
  std::uint64_t malformed_queues = 0;
  std::uint64_t updates = 0;  // of the backing file or its size
};

// What a snapshot keeps besides the transport's registers: where the queue stands. Requests never last
// longer than a call, so none is in flight.
struct State {
  Queue::State queue;
};

// Requests are served one after the other on the thread that calls queue_notified(), at most kBatch of them a
// call; what is left is taken up on the loop's thread, after other work had its turn.
class Device : public VirtioDevice {
 public:
  static constexpr unsigned kBatch = 64;

  // Opens and checks the file. `loop` outlives the device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop);
  // The same on another kind of disk.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop,
                                                      BackendOpener opener);

  // A new backing file, or the same one looked at again when `path` is empty: updates the capacity and tells
  // the driver. An error leaves everything as it was. Under mutex().
  virtual base::Status update(const std::string& path) = 0;

  // Under mutex().
  [[nodiscard]] virtual Metrics metrics() const = 0;
  // Under mutex(). Restored by way of MmioTransport::restore().
  [[nodiscard]] virtual State save() const = 0;
};

}  // namespace mayfly::virtio::block
