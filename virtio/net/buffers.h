// The receive buffers that a driver gave us and that no frame is in yet.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/net/packet.h"
#include "virtio/queue.h"

namespace mayfly::virtio::net {

// Chains are taken from the queue once and kept until a frame needs them, so that a frame goes straight into
// guest memory however many of them it takes. A driver owns none of what it made available, so it cannot
// tell; a snapshot counts them as not taken (rewind()).
class ReceiveBuffers {
 public:
  enum class Supply : std::uint8_t {
    kReady,  // read the next frame
    kEmpty,  // the driver was asked to notify us when it adds buffers
    kAgain,  // the driver made much available that is of no use; look again after others had their turn
  };

  // `mergeable`: MRG_RXBUF was negotiated. Else a frame has one chain only.
  explicit ReceiveBuffers(bool mergeable) : mergeable_(mergeable) {}

  // Takes what the next frame may need. Chains too small for the header go back at once and add to
  // `too_small`. An error: the queue is broken.
  base::Result<Supply> gather(Queue& queue, std::uint64_t& too_small);
  // Where to read a header and a frame to: `header`, then guest memory, then one byte that is written only
  // when there was too little of it. Valid until the next call of anything here.
  std::span<const iovec> pieces(Header& header, std::byte& beyond);
  // How much of that there is besides `beyond`.
  [[nodiscard]] std::uint64_t capacity() const { return capacity_; }
  // Returns the chains that a header and frame of `length` bytes took, with the header in front. `length` is
  // at least sizeof(Header) and at most capacity().
  void finish(Queue& queue, Header header, std::uint64_t length);

  // Where the queue stands for a driver that is to find these chains available again.
  [[nodiscard]] Queue::State rewind(Queue::State state) const;
  // The chains are dropped with their queue.
  void abandon();

 private:
  struct Held {
    Chain chain;
    std::uint64_t size;  // writable bytes, at least sizeof(Header)
    std::size_t pieces;  // that they are in
  };
  [[nodiscard]] bool full() const;
  void add(Queue& queue, Chain chain, std::uint64_t& too_small);

  bool mergeable_;
  // The driver has shown that it can have room for the largest frame at once. From then on we wait for it to:
  // frames wait on the host meanwhile. One that never did gets what fits.
  bool plentiful_ = false;
  std::deque<Held> held_;
  std::uint64_t capacity_ = 0;
  std::size_t piece_count_ = 0;
  std::vector<iovec> pieces_;
};

}  // namespace mayfly::virtio::net
