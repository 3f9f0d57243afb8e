// The split virtqueue, device side (virtio 1.2, section 2.7).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::virtio {

class Interrupt;

// Keeps every store before it from passing any load after it (and all else likewise). Both sides of a ring
// need it between "I tell you" and "I look at what you told me".
void full_fence();

// A sequence of guest byte ranges, walked front to back. Every range was checked when the chain was taken
// from the ring and the descriptors were copied then, so what a Reader or Writer touches is always guest
// memory; the bytes themselves may change at any time.
class ByteCursor {
 public:
  explicit ByteCursor(std::vector<std::span<std::byte>> spans);
  [[nodiscard]] std::uint64_t remaining() const { return remaining_; }
  // Takes up to `limit` bytes off the front as host spans, for scatter-gather I/O without a copy.
  std::vector<std::span<std::byte>> take_spans(std::uint64_t limit);
  // What is left, as host spans, not taken; valid until something is.
  [[nodiscard]] std::span<const std::span<std::byte>> spans() const {
    return std::span(spans_).subspan(first_);
  }
  // Drops up to n bytes off the front; how many.
  std::uint64_t skip(std::uint64_t n);

 protected:
  std::span<std::byte> take_front(std::uint64_t limit);
  std::vector<std::span<std::byte>> spans_;
  std::size_t first_ = 0;  // the span that the next byte is in
  std::uint64_t remaining_ = 0;
};

// The device-readable bytes of a chain.
class Reader : public ByteCursor {
 public:
  using ByteCursor::ByteCursor;
  // Copies min(out.size(), remaining()) bytes; how many.
  std::size_t read(std::span<std::byte> out);
  // A whole T, or nothing taken when fewer bytes are left.
  template <base::Wire T>
  std::optional<T> read_object() {
    if (remaining() < sizeof(T)) return std::nullopt;
    T value;
    read(std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
};

// The device-writable bytes of a chain.
class Writer : public ByteCursor {
 public:
  using ByteCursor::ByteCursor;
  std::size_t write(std::span<const std::byte> in);
  template <base::Wire T>
  bool write_object(const T& value) {
    if (remaining() < sizeof(T)) return false;
    write(std::as_bytes(std::span(&value, 1)));
    return true;
  }
  // Cuts the last n bytes (n <= remaining()) off into a Writer of their own: a block request's status byte.
  Writer split_tail(std::uint64_t n);
};

// One request of the driver's: an obligation to be returned with Queue::push(). Move-only. A chain that is
// destroyed unreturned outside of a reset is a bug of ours and is logged as an error.
class Chain {
 public:
  Chain(Chain&& other) noexcept;
  Chain& operator=(Chain&& other) noexcept;
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain();

  [[nodiscard]] std::uint16_t head() const { return head_; }
  Reader& reader() { return reader_; }
  Writer& writer() { return writer_; }
  // The obligation is dropped with the queue it came from: only from a device's reset().
  void abandon() { owed_ = false; }

 private:
  friend class Queue;
  Chain(std::uint16_t head, std::vector<std::span<std::byte>> readable,
        std::vector<std::span<std::byte>> writable);
  std::uint16_t head_;
  bool owed_ = true;
  Reader reader_;
  Writer writer_;
};

// Where the driver put a queue.
struct QueueLayout {
  std::uint16_t size = 0;  // entries, a power of two
  base::GuestAddress descriptor_table;
  base::GuestAddress available_ring;
  base::GuestAddress used_ring;
};

// One split virtqueue, from activation to reset. Not thread-safe: used under its device's mutex.
class Queue {
 public:
  // What a snapshot keeps, besides the layout.
  struct State {
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled_used = 0;
    bool signalled_valid = false;
  };

  // Section 2.7: the largest queue size.
  static constexpr std::uint16_t kLargestSize = 32768;

  Queue() = default;  // a disabled queue: ready() is false, nothing else may be called

  // Checks the layout completely (size, alignment, whole extents inside guest memory, no overlap) so that
  // ring accesses cannot fail afterwards. `features`: what was negotiated.
  static base::Result<Queue> create(const base::GuestMemory& memory, const QueueLayout& layout,
                                    std::uint64_t features);

  [[nodiscard]] bool ready() const { return rings_.has_value(); }
  [[nodiscard]] std::uint16_t size() const { return size_; }

  // The next chain the driver made available, or nothing when there is none. An error: the driver broke the
  // queue (index out of range, loop, range outside memory, readable after writable, …); the caller must
  // report it with Interrupt::device_error() and use the queue no more (it answers with an error for ever).
  [[nodiscard]] base::Result<std::optional<Chain>> pop();

  // Gives the last popped chain back as if it had not been popped; only before any other pop() or push().
  void undo_pop(Chain chain);

  // Returns a chain with the number of bytes written to it from its start (2.7.8.2).
  void push(Chain chain, std::uint32_t written);

  // The same for all but the last of several chains that hold one answer: the driver sees them returned
  // together, with the push() that must be the next call on this queue.
  void push_with_next(Chain chain, std::uint32_t written);

  // Whether the driver wants a used buffer notification for what was pushed since the last call (2.7.7.2,
  // with or without EVENT_IDX). Call once after a batch; when true, call Interrupt::queue_used().
  [[nodiscard]] bool should_notify();

  // Asks the driver for, or spares it, available buffer notifications. enable_notifications() returns true
  // when the driver added chains in the meantime, which the caller must then pop (no notification will come).
  [[nodiscard]] bool enable_notifications();
  void disable_notifications();

  [[nodiscard]] State save() const { return state_; }
  void restore(const State& state) { state_ = state; }

 private:
  struct Descriptor {
    base::Le64 address;
    base::Le32 length;
    base::Le16 flags;
    base::Le16 next;
  };
  static_assert(sizeof(Descriptor) == 16 && base::Wire<Descriptor>);

  // The three areas, checked at create() and looked up once. The guest's memory outlives the queue.
  struct Rings {
    const base::GuestMemory* memory;
    std::span<std::byte> descriptors;
    std::span<std::byte> available;  // the ring's entries
    std::span<std::byte> used;
    base::GuestAtomic16 available_flags;
    base::GuestAtomic16 available_index;
    base::GuestAtomic16 used_event;
    base::GuestAtomic16 used_flags;
    base::GuestAtomic16 used_index;
    base::GuestAtomic16 available_event;
  };
  class Walk;

  Queue(const Rings& rings, std::uint16_t size, std::uint64_t features)
      : rings_(rings), size_(size), features_(features) {}
  [[nodiscard]] bool event_idx() const;
  base::Result<std::optional<Chain>> take_next();
  base::Result<Chain> walk(std::uint16_t head) const;

  std::optional<Rings> rings_;
  std::uint16_t size_ = 0;
  std::uint64_t features_ = 0;
  bool broken_ = false;
  State state_;
};

}  // namespace mayfly::virtio
