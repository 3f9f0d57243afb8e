#include "virtio/queue.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

#include "base/log.h"
#include "virtio/device.h"

namespace mayfly::virtio {

using base::fail;
using base::GuestAddress;
using base::GuestMemory;
using base::Result;

namespace {

// Section 2.7.5: descriptor flags.
constexpr std::uint16_t kDescNext = 1;
constexpr std::uint16_t kDescWrite = 2;
constexpr std::uint16_t kDescIndirect = 4;

// Sections 2.7.6 and 2.7.8: ring flags, without EVENT_IDX.
constexpr std::uint16_t kAvailNoInterrupt = 1;
constexpr std::uint16_t kUsedNoNotify = 1;

// Where things are in the two rings: flags, idx, the entries, then the event index.
constexpr std::uint64_t kFlagsOffset = 0;
constexpr std::uint64_t kIndexOffset = 2;
constexpr std::uint64_t kEntriesOffset = 4;
constexpr std::uint64_t kAvailableEntrySize = 2;
constexpr std::uint64_t kRingOverhead = 6;

struct UsedElement {
  base::Le32 id;
  base::Le32 length;
};
static_assert(sizeof(UsedElement) == 8 && base::Wire<UsedElement>);

// One fetch of guest memory into a copy of ours. The guest may be writing there; the empty asm makes the
// copy opaque, so that the compiler cannot read the guest's bytes a second time instead of the copy.
#ifdef MAYFLY_THREAD_SANITIZER
// The race with the guest is meant; a memcpy would be reported whatever the attribute says.
__attribute__((no_sanitize("thread"))) void fetch(std::byte* copy, const volatile std::byte* guest,
                                                  std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) copy[i] = static_cast<std::byte>(guest[i]);
}
#else
void fetch(std::byte* copy, const std::byte* guest, std::size_t size) {
  std::memcpy(copy, guest, size);
  asm volatile("" : : "r"(copy) : "memory");
}
#endif

template <base::Wire T>
T fetch_entry(std::span<const std::byte> table, std::uint64_t index) {
  std::array<std::byte, sizeof(T)> copy;
  fetch(copy.data(), table.subspan(index * sizeof(T), sizeof(T)).data(), sizeof(T));
  return std::bit_cast<T>(copy);
}

struct Extent {
  const char* name;
  GuestAddress start;
  std::uint64_t length;
  std::uint64_t alignment;

  [[nodiscard]] bool overlaps(const Extent& other) const {
    // Both ends were found to be inside guest memory, so neither sum overflows.
    return start.value() < other.start.value() + other.length && other.start.value() < start.value() + length;
  }
};

}  // namespace

void full_fence() {
#ifdef __SANITIZE_THREAD__
  // ThreadSanitizer does not know fences; a read-modify-write of one shared place orders as much for it.
  static std::atomic<unsigned> place;
  place.fetch_add(1, std::memory_order_seq_cst);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// ---- ByteCursor, Reader, Writer ----

ByteCursor::ByteCursor(std::vector<std::span<std::byte>> spans) : spans_(std::move(spans)) {
  std::erase_if(spans_, [](const auto& span) { return span.empty(); });
  for (const auto& span : spans_) remaining_ += span.size();
}

// Takes up to `limit` > 0 bytes off the front, all from one range; there must be some left.
std::span<std::byte> ByteCursor::take_front(std::uint64_t limit) {
  std::span<std::byte>& front = spans_[first_];
  const std::span<std::byte> taken = front.first(std::min<std::uint64_t>(limit, front.size()));
  remaining_ -= taken.size();
  if (taken.size() == front.size()) {
    ++first_;
  } else {
    front = front.subspan(taken.size());
  }
  return taken;
}

std::vector<std::span<std::byte>> ByteCursor::take_spans(std::uint64_t limit) {
  std::vector<std::span<std::byte>> taken;
  limit = std::min(limit, remaining_);
  if (limit > 0) taken.reserve(spans_.size() - first_);
  while (limit > 0) {
    taken.push_back(take_front(limit));
    limit -= taken.back().size();
  }
  return taken;
}

std::uint64_t ByteCursor::skip(std::uint64_t n) {
  n = std::min(n, remaining_);
  for (std::uint64_t left = n; left > 0;) left -= take_front(left).size();
  return n;
}

std::size_t Reader::read(std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size() && remaining_ > 0) {
    const std::span<std::byte> from = take_front(out.size() - done);
    fetch(out.data() + done, from.data(), from.size());
    done += from.size();
  }
  return done;
}

std::size_t Writer::write(std::span<const std::byte> in) {
  std::size_t done = 0;
  while (done < in.size() && remaining_ > 0) {
    const std::span<std::byte> to = take_front(in.size() - done);
    std::memcpy(to.data(), in.data() + done, to.size());
    done += to.size();
  }
  return done;
}

Writer Writer::split_tail(std::uint64_t n) {
  n = std::min(n, remaining_);
  remaining_ -= n;
  std::vector<std::span<std::byte>> tail;
  while (n > 0) {
    std::span<std::byte>& back = spans_.back();
    const std::size_t cut = std::min<std::uint64_t>(n, back.size());
    tail.push_back(back.last(cut));
    back = back.first(back.size() - cut);
    if (back.empty()) spans_.pop_back();
    n -= cut;
  }
  std::ranges::reverse(tail);
  return Writer(std::move(tail));
}

// ---- Chain ----

Chain::Chain(std::uint16_t head, std::vector<std::span<std::byte>> readable,
             std::vector<std::span<std::byte>> writable)
    : head_(head), reader_(std::move(readable)), writer_(std::move(writable)) {}

Chain::Chain(Chain&& other) noexcept
    : head_(other.head_),
      owed_(std::exchange(other.owed_, false)),
      reader_(std::move(other.reader_)),
      writer_(std::move(other.writer_)) {}

Chain& Chain::operator=(Chain&& other) noexcept {
  std::swap(head_, other.head_);
  std::swap(owed_, other.owed_);
  std::swap(reader_, other.reader_);
  std::swap(writer_, other.writer_);
  return *this;
}

Chain::~Chain() {
  if (owed_) base::log::error("virtio: descriptor chain {} was dropped without being returned", head_);
}

// ---- Queue ----

bool Queue::event_idx() const {
  return (features_ & kFeatureEventIdx) != 0;
}

Result<Queue> Queue::create(const GuestMemory& memory, const QueueLayout& layout, std::uint64_t features) {
  const std::uint64_t size = layout.size;
  if (!std::has_single_bit(size) || size > kLargestSize) {
    return fail("queue size {} is not a power of two up to {}", size, kLargestSize);
  }
  // Section 2.7: sizes and alignments of the three areas.
  const std::array<Extent, 3> areas = {
      Extent{"descriptor table", layout.descriptor_table, size * sizeof(Descriptor), 16},
      Extent{"available ring", layout.available_ring, kRingOverhead + size * kAvailableEntrySize, 2},
      Extent{"used ring", layout.used_ring, kRingOverhead + size * sizeof(UsedElement), 4},
  };
  for (const Extent& area : areas) {
    if (!area.start.is_aligned(area.alignment)) {
      return fail("the {} at {:#x} is not aligned to {} bytes", area.name, area.start.value(),
                  area.alignment);
    }
    if (!memory.contains(area.start, area.length)) {
      return fail("the {} at {:#x} + {:#x} is not inside guest memory", area.name, area.start.value(),
                  area.length);
    }
  }
  for (std::size_t i = 0; i < areas.size(); ++i) {
    for (std::size_t j = i + 1; j < areas.size(); ++j) {
      if (areas[i].overlaps(areas[j])) {
        return fail("the {} at {:#x} overlaps the {} at {:#x}", areas[i].name, areas[i].start.value(),
                    areas[j].name, areas[j].start.value());
      }
    }
  }
  const auto [descriptors, available, used] = areas;
  const std::uint64_t available_entries = size * kAvailableEntrySize;
  const std::uint64_t used_entries = size * sizeof(UsedElement);
  const auto in_available = [&](std::uint64_t offset) {
    return memory.atomic16(available.start.unchecked_add(offset));
  };
  const auto in_used = [&](std::uint64_t offset) {
    return memory.atomic16(used.start.unchecked_add(offset));
  };
  const Rings rings = {
      .memory = &memory,
      .descriptors = TRY(memory.slice(descriptors.start, descriptors.length)),
      .available = TRY(memory.slice(available.start.unchecked_add(kEntriesOffset), available_entries)),
      .used = TRY(memory.slice(used.start.unchecked_add(kEntriesOffset), used_entries)),
      .available_flags = TRY(in_available(kFlagsOffset)),
      .available_index = TRY(in_available(kIndexOffset)),
      .used_event = TRY(in_available(kEntriesOffset + available_entries)),
      .used_flags = TRY(in_used(kFlagsOffset)),
      .used_index = TRY(in_used(kIndexOffset)),
      .available_event = TRY(in_used(kEntriesOffset + used_entries)),
  };
  Queue queue(rings, layout.size, features);
  // A fresh queue has signalled "up to 0", so that the first used element is judged like any later one.
  queue.state_.signalled_valid = true;
  return queue;
}

// Collects the ranges of one chain and holds it to the rules on the way.
class Queue::Walk {
 public:
  Walk(const Rings& rings, std::uint16_t queue_size, std::uint64_t features)
      : rings_(rings), queue_size_(queue_size), indirect_allowed_((features & kFeatureIndirectDesc) != 0) {}

  // Follows the descriptors of `table` from `index`. Terminates: every turn that goes on counts one towards
  // the hop limit, and an indirect descriptor ends its table.
  base::Status follow(std::span<const std::byte> table, std::uint16_t index, bool in_indirect) {
    const std::uint64_t entries = table.size() / sizeof(Descriptor);
    for (;;) {
      if (index >= entries) return fail("descriptor index {} in a table of {}", index, entries);
      const auto descriptor = fetch_entry<Descriptor>(table, index);
      const std::uint16_t flags = descriptor.flags;
      if ((flags & kDescIndirect) != 0) return follow_indirect(descriptor, in_indirect);
      TRY(add(descriptor));
      if ((flags & kDescNext) == 0) return {};
      index = descriptor.next;
    }
  }

  Chain finish(std::uint16_t head) && { return {head, std::move(readable_), std::move(writable_)}; }

 private:
  // Section 2.7.5.3. The WRITE flag of a descriptor that refers to a table is ignored (2.7.5.3.2).
  base::Status follow_indirect(const Descriptor& descriptor, bool in_indirect) {
    const std::uint64_t address = descriptor.address;
    const std::uint32_t length = descriptor.length;
    if (!indirect_allowed_) return fail("an indirect descriptor, but INDIRECT_DESC was not negotiated");
    if (in_indirect) return fail("an indirect descriptor inside an indirect table");
    if ((descriptor.flags & kDescNext) != 0) return fail("a descriptor with both INDIRECT and NEXT");
    if (length == 0 || length % sizeof(Descriptor) != 0 || length / sizeof(Descriptor) > kLargestSize) {
      return fail("an indirect table of {} bytes", length);
    }
    return follow(TRY(rings_.memory->slice(GuestAddress(address), length)), 0, true);
  }

  base::Status add(const Descriptor& descriptor) {
    const std::uint64_t address = descriptor.address;
    const std::uint32_t length = descriptor.length;
    // Section 2.7.5.3.1: no chain is longer than the queue size, indirect or not. Ends every loop.
    if (++count_ > queue_size_) return fail("a chain of more than {} descriptors, or a loop", queue_size_);
    const bool writable = (descriptor.flags & kDescWrite) != 0;
    // Section 2.7.4.2: readable elements come first.
    if (!writable && seen_writable_) return fail("a readable descriptor after a writable one");
    seen_writable_ = writable;
    // Nothing is behind a descriptor of no length, so where it points does not matter.
    if (length == 0) return {};
    total_ += length;
    // Section 2.7.5: a chain is at most 2^32 bytes; the used length has 32 bits, so 2^32 itself cannot be
    // told.
    if (total_ > std::numeric_limits<std::uint32_t>::max())
      return fail("a chain of {} bytes or more", total_);
    auto& spans = writable ? writable_ : readable_;
    spans.push_back(TRY(rings_.memory->slice(GuestAddress(address), length)));
    return {};
  }

  const Rings& rings_;
  std::uint16_t queue_size_;
  bool indirect_allowed_;
  bool seen_writable_ = false;
  std::uint32_t count_ = 0;
  std::uint64_t total_ = 0;
  std::vector<std::span<std::byte>> readable_;
  std::vector<std::span<std::byte>> writable_;
};

Result<Chain> Queue::walk(std::uint16_t head) const {
  Walk walk(*rings_, size_, features_);
  TRY(walk.follow(rings_->descriptors, head, false));
  return std::move(walk).finish(head);
}

Result<std::optional<Chain>> Queue::take_next() {
  if (broken_) return fail("the queue was broken before");
  // Acquire: the ring entry and the descriptors that the driver wrote before it moved the index are read
  // after the index, never before.
  const std::uint16_t index = rings_->available_index.load_acquire();
  const auto pending = static_cast<std::uint16_t>(index - state_.next_available);
  if (pending == 0) return std::nullopt;
  if (pending > size_) {
    return fail("available index {} is {} ahead in a queue of {}", index, pending, size_);
  }
  const std::uint16_t head =
      fetch_entry<base::Le16>(rings_->available, state_.next_available % std::uint32_t{size_});
  Chain chain = TRY(walk(head));
  ++state_.next_available;
  return chain;
}

Result<std::optional<Chain>> Queue::pop() {
  auto taken = take_next();
  if (!taken) broken_ = true;
  return taken;
}

void Queue::undo_pop(Chain chain) {
  chain.owed_ = false;
  --state_.next_available;
}

void Queue::push_with_next(Chain chain, std::uint32_t written) {
  chain.owed_ = false;
  const UsedElement element{std::uint32_t{chain.head()}, written};
  const std::uint64_t slot = state_.next_used % std::uint32_t{size_};
  std::memcpy(rings_->used.subspan(slot * sizeof(element), sizeof(element)).data(), &element,
              sizeof(element));
  ++state_.next_used;
  // After a whole turn of the index without a call of should_notify(), "since" has no meaning any more.
  if (state_.next_used == state_.signalled_used) state_.signalled_valid = false;
}

void Queue::push(Chain chain, std::uint32_t written) {
  push_with_next(std::move(chain), written);
  // Release: a driver that sees the new index sees the elements and the data in the buffers (2.7.8.2).
  rings_->used_index.store_release(state_.next_used);
}

bool Queue::should_notify() {
  const std::uint16_t before = state_.signalled_used;
  const bool valid = state_.signalled_valid;
  if (valid && before == state_.next_used) return false;
  state_.signalled_used = state_.next_used;
  state_.signalled_valid = true;
  // Our store of the used index must be visible before we look at what the driver asks for. The driver does
  // the reverse: it stores used_event (or clears the flag), then looks at the used index. Without a full
  // fence on both sides each could miss the other's store, and the driver would sleep on a used buffer.
  full_fence();
  if (!valid) return true;
  if (!event_idx()) return (rings_->available_flags.load_relaxed() & kAvailNoInterrupt) == 0;
  // Section 2.7.7.2: notify when this batch passed used_event. All arithmetic is modulo 2^16.
  const std::uint16_t event = rings_->used_event.load_relaxed();
  const auto past_event = static_cast<std::uint16_t>(state_.next_used - event - 1);
  const auto batch = static_cast<std::uint16_t>(state_.next_used - before);
  return past_event < batch;
}

bool Queue::enable_notifications() {
  if (event_idx()) {
    // Section 2.7.10: notify us of the chain after the last one we took.
    rings_->available_event.store_relaxed(state_.next_available);
  } else {
    rings_->used_flags.store_relaxed(0);
  }
  // What we ask for must be visible before we look at the available index one last time. The driver stores
  // the index, then looks at what we ask for; with a full fence on both sides either it notifies us or we
  // see its chain.
  full_fence();
  return rings_->available_index.load_acquire() != state_.next_available;
}

void Queue::disable_notifications() {
  // With EVENT_IDX the flags stay zero (2.7.10.1). An available_event that lies behind keeps the driver
  // quiet. It is a hint: the driver may notify all the same, so nothing is ordered here.
  if (!event_idx()) rings_->used_flags.store_relaxed(kUsedNoNotify);
}

}  // namespace mayfly::virtio
