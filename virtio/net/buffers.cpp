#include "virtio/net/buffers.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "virtio/net/device.h"

namespace mayfly::virtio::net {

namespace {

constexpr std::uint64_t kLargestPacket = sizeof(Header) + kLargestFrame;

// One readv(2) takes IOV_MAX pieces. Another chain has no more of them than the queue has entries
// (2.7.5.3.1), and two are our own.
constexpr std::size_t kMostPieces = IOV_MAX - 2 - kQueueSize;

}  // namespace

bool ReceiveBuffers::full() const {
  if (!mergeable_) return !held_.empty();
  return capacity_ >= kLargestPacket || piece_count_ > kMostPieces;
}

base::Result<ReceiveBuffers::Supply> ReceiveBuffers::gather(Queue& queue, std::uint64_t& too_small) {
  // Bounded, because a driver could go on making chains available as fast as we return them.
  for (unsigned taken = 0; !full(); ++taken) {
    if (taken == kQueueSize) return Supply::kAgain;
    auto chain = TRY(queue.pop());
    if (chain) {
      add(queue, std::move(*chain), too_small);
    } else if (!queue.enable_notifications()) {
      return held_.empty() || plentiful_ ? Supply::kEmpty : Supply::kReady;
    }
  }
  if (capacity_ >= kLargestPacket) plentiful_ = mergeable_;
  queue.disable_notifications();
  return Supply::kReady;
}

void ReceiveBuffers::add(Queue& queue, Chain chain, std::uint64_t& too_small) {
  // Section 5.1.6.3.1. Readable bytes in a receive buffer are none of our business.
  const std::uint64_t size = chain.writer().remaining();
  if (size < sizeof(Header)) {
    ++too_small;
    queue.push(std::move(chain), 0);
    return;
  }
  capacity_ += size;
  const std::size_t pieces = chain.writer().spans().size();
  piece_count_ += pieces;
  held_.push_back({std::move(chain), size, pieces});
}

std::span<const iovec> ReceiveBuffers::pieces(Header& header, std::byte& beyond) {
  pieces_.clear();
  pieces_.push_back({&header, sizeof(header)});
  // The header is read to a copy of ours and put in front by finish(), when num_buffers is known.
  std::uint64_t skip = sizeof(Header);
  for (Held& held : held_) {
    for (const std::span<std::byte> span : held.chain.writer().spans()) {
      const std::uint64_t skipped = std::min<std::uint64_t>(skip, span.size());
      skip -= skipped;
      const std::span<std::byte> rest = span.subspan(skipped);
      if (!rest.empty()) pieces_.push_back({rest.data(), rest.size()});
    }
  }
  pieces_.push_back({&beyond, 1});
  return pieces_;
}

void ReceiveBuffers::finish(Queue& queue, Header header, std::uint64_t length) {
  std::uint16_t count = 0;
  for (std::uint64_t covered = 0; covered < length; ++count) covered += held_[count].size;
  // Section 5.1.6.4.1: 1 without MRG_RXBUF, where one chain is all there is.
  header.num_buffers = count;
  held_.front().chain.writer().write_object(header);
  for (std::uint16_t left = count; left > 0; --left) {
    Held held = std::move(held_.front());
    held_.pop_front();
    // A chain is shorter than 2^32 bytes (Queue::pop).
    const auto written = static_cast<std::uint32_t>(std::min(length, held.size));
    length -= written;
    capacity_ -= held.size;
    piece_count_ -= held.pieces;
    if (left > 1) {
      // A driver that looks at the ring meanwhile must not find half a frame.
      queue.push_with_next(std::move(held.chain), written);
    } else {
      queue.push(std::move(held.chain), written);
    }
  }
}

Queue::State ReceiveBuffers::rewind(Queue::State state) const {
  state.next_available = static_cast<std::uint16_t>(state.next_available - held_.size());
  return state;
}

void ReceiveBuffers::abandon() {
  for (Held& held : held_) held.chain.abandon();
  held_.clear();
  capacity_ = 0;
  piece_count_ = 0;
}

}  // namespace mayfly::virtio::net
