// What carries out a block device's requests: the one interface of the synchronous and the asynchronous
// engine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/block/medium.h"
#include "virtio/block/request.h"

namespace mayfly::virtio::block {

using Spans = std::span<const std::span<std::byte>>;

// One request, checked. What `spans` and `ranges` refer to stays in place until the job is completed; the
// spans are guest memory, whose bytes may change meanwhile.
struct Job {
  std::uint32_t token = 0;                 // the device's name for it: < kMostInFlight, not in use
  Operation operation = Operation::kRead;  // any but kGetId
  std::uint64_t offset = 0;                // bytes; kRead and kWrite, as is the next
  Spans spans = {};                        // all of them are filled from, or written to, the disk
  std::span<const Range> ranges = {};      // kDiscard and kWriteZeroes
  bool stable = false;                     // what it changed is on stable storage when it completes
};

// Jobs that are submitted and not completed.
inline constexpr std::uint32_t kMostInFlight = 256;

// Whom a backend tells; the device's mutex is held.
class Completions {
 public:
  virtual ~Completions() = default;
  // Once for each job, from within submit(), start(), drain() or a handler of the event loop. An error has
  // errno in Error::code, or 0 where the disk ended early; a part was then done. The job's memory is not
  // touched any more. Must not call the backend.
  virtual void completed(std::uint32_t token, const base::Status& outcome) = 0;
  // After completions that the event loop brought. May call the backend.
  virtual void settled() = 0;
};

// Used under the device's mutex, on any thread. Destroying it drains it.
class Backend {
 public:
  virtual ~Backend() = default;

  // Bytes now; an error when it cannot be told or is not a size a disk may have.
  virtual base::Result<std::uint64_t> size() = 0;
  [[nodiscard]] virtual Geometry geometry() const = 0;
  // Serves the file or block device at `path` instead, once every job is completed, if it can keep what else
  // it has of the kernel's. False: another backend has to be opened. An error (as File::open() has them):
  // nothing has changed.
  virtual base::Result<bool> move_to(const std::string& path, bool read_only) = 0;
  // Jobs complete in any order. A kFlush makes stable what was completed before it was submitted.
  virtual void submit(const Job& job) = 0;
  // What was submitted is begun at the latest now. Call once after a batch.
  virtual void start() = 0;
  // Waits until every job is completed.
  virtual void drain() = 0;
  // The same, but what can be given up is: it completes with ECANCELED, done or not.
  virtual void abandon() = 0;
};

// Which engine a drive has.
enum class IoEngine : std::uint8_t {
  kBest,   // kAsync where the kernel allows it, else kSync
  kSync,   // each job is done when submit() returns
  kAsync,  // io_uring
};

// What a backend is opened with, besides a path. The references outlive the backend.
struct Opening {
  bool read_only = false;
  IoEngine engine = IoEngine::kBest;
  base::EventLoop& loop;
  std::mutex& mutex;  // the device's
  Completions& completions;
};

// Opens the disk at `path`.
using BackendOpener =
    std::function<base::Result<std::unique_ptr<Backend>>(const std::string& path, const Opening& opening)>;

// A regular file or a block device. Each error names the path: see open_file().
base::Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path, const Opening& opening);

// The same, to be read only: what is written goes to the overlay at `overlay_path`, which is made if it is
// missing (overlay/overlay_file.h has the errors). Served synchronously; kAsync and read_only are refused.
// What changed in which clusters is flushed a second later at the latest, by a drain(), and at the end.
base::Result<std::unique_ptr<Backend>> open_overlay_backend(const std::string& overlay_path,
                                                            const std::string& path, const Opening& opening);

// Each job is done by the calling thread.
std::unique_ptr<Backend> make_sync_backend(std::unique_ptr<Medium> medium, Completions& completions);

// Jobs are done by the ring, which is on the same disk as `medium`.
class Ring;
base::Result<std::unique_ptr<Backend>> make_async_backend(std::unique_ptr<Medium> medium,
                                                          std::unique_ptr<Ring> ring, const Opening& opening);

}  // namespace mayfly::virtio::block
