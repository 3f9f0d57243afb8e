// Calls on a disk that are begun now and finished later.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "virtio/block/medium.h"

namespace mayfly::virtio::block {

// Used by one thread at a time. Tests put one here that is slow, and fails.
class Ring {
 public:
  struct Finished {
    std::uint32_t token;
    std::int64_t result;  // as Medium::perform() returns it
  };

  // All calls must be finished.
  virtual ~Ring() = default;
  // Readable as long as there is something to take, and only to be polled; stays open as long as the ring.
  [[nodiscard]] virtual int event_fd() const = 0;
  // Whether move_to() can be called.
  [[nodiscard]] virtual bool moves() const { return false; }
  // Calls are on this open file or block device from now on, which outlives the ring; none is under way.
  // An error: this ring stays where it is.
  virtual base::Status move_to(int /*fd*/, bool /*on_block_device*/) {
    return base::fail("this ring stays with its file");
  }
  // Whether calls of this kind can be put here.
  [[nodiscard]] virtual bool takes(Call::Kind kind) const = 0;
  // At most kMostInFlight at a time, tokens below that. What `call` refers to stays in place until it is
  // taken as finished.
  virtual void put(const Call& call, std::uint32_t token) = 0;
  // Begins what was put. False: the kernel has no memory for some of it now; try again later.
  virtual bool submit() = 0;
  virtual std::optional<Finished> take() = 0;
  // Begins what was put, and waits until there is something to take; only when something is to come.
  virtual void wait() = 0;
  // Asks for what is not under way yet to be given up: it finishes with -ECANCELED. All the rest finishes as
  // it would have.
  virtual void cancel() = 0;
};

// io_uring on an open file or block device, which outlives it. An error: this kernel or this process may not
// have it.
base::Result<std::unique_ptr<Ring>> make_uring(int fd, bool on_block_device);

}  // namespace mayfly::virtio::block
