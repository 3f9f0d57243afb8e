// A network device's way to the metadata service: what the guest sends to it never gets to the network, and
// its answers come in before the network's frames.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "base/event_loop.h"
#include "base/result.h"
#include "mmds/responder.h"
#include "virtio/net/packet.h"
#include "virtio/queue.h"

namespace mayfly::virtio::net {

// Used under the device's mutex.
class Metadata {
 public:
  // `ready` is called on the loop's thread, with the mutex held, when time alone gave the service something
  // to say. `loop` and `mutex` outlive this.
  static base::Result<std::unique_ptr<Metadata>> create(std::shared_ptr<const mmds::Service> service,
                                                        base::EventLoop& loop, std::mutex& mutex,
                                                        std::function<void()> ready);

  // Takes a frame if it is for the service: one that starts with `head` (mmds::kFrameHead bytes, or all of
  // it), the copy that counts, and goes on in guest memory, which is read once. `header`:
  // check_transmitted().
  bool take(const Header& header, std::span<const std::byte> head, Reader& rest);

  // Whether there is a frame for the guest.
  [[nodiscard]] bool waiting() const { return responder_->wants_to_send(); }
  // Where there is: a header and frame into `pieces`, as Backend::read(); `capacity`: of them, without
  // `beyond`.
  std::size_t read(std::span<const iovec> pieces, std::uint64_t capacity);

  // Forgets the driver.
  void reset();

  [[nodiscard]] mmds::Metrics metrics() const { return responder_->metrics(); }

 private:
  Metadata(std::unique_ptr<mmds::Responder> responder, std::function<void()> ready);
  void timed_out();
  void set_timer();

  std::unique_ptr<mmds::Responder> responder_;
  std::function<void()> ready_;
  std::unique_ptr<base::Timer> timer_;
  std::optional<mmds::Time> timer_set_to_;
  // The frame that is being taken: not cleared, because only what was written to it is read.
  std::unique_ptr<std::array<std::byte, kLargestFrame>> frame_;
};

}  // namespace mayfly::virtio::net
