#include "tests/support/virtio_driver.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

namespace mayfly::test {

using base::GuestAddress;

namespace {

base::GuestMemory make_memory(std::uint64_t low_size) {
  const std::array<base::GuestMemory::Range, 2> ranges = {{
      {GuestAddress(0), low_size},
      {GuestAddress(FakeGuest::kHighStart), FakeGuest::kHighSize},
  }};
  auto memory = base::GuestMemory::create(ranges);
  if (!memory) throw std::runtime_error(memory.error().message);
  return std::move(*memory);
}

virtio::QueueLayout lay_out(FakeGuest& guest, std::uint16_t size) {
  return {
      .size = size,
      .descriptor_table = guest.allocate(std::uint64_t{16} * size, 16),
      .available_ring = guest.allocate(6 + std::uint64_t{2} * size, 2),
      .used_ring = guest.allocate(6 + std::uint64_t{8} * size, 4),
  };
}

}  // namespace

// ---- FakeGuest ----

FakeGuest::FakeGuest(std::uint64_t low_size) : low_size_(low_size), memory_(make_memory(low_size)) {}

GuestAddress FakeGuest::allocate(std::uint64_t size, std::uint64_t alignment) {
  const std::uint64_t start = (next_free_ + alignment - 1) / alignment * alignment;
  if (start > low_size_ || size > low_size_ - start) throw std::runtime_error("the fake guest is full");
  next_free_ = start + size;
  return GuestAddress(start);
}

GuestAddress FakeGuest::allocate_bytes(std::span<const std::byte> content) {
  const GuestAddress address = allocate(content.size());
  write(address, content);
  return address;
}

void FakeGuest::write(GuestAddress address, std::span<const std::byte> content) {
  if (auto written = memory_.write_bytes(address, content); !written) {
    throw std::runtime_error(written.error().message);
  }
}

std::vector<std::byte> FakeGuest::read(GuestAddress address, std::uint64_t length) const {
  const std::span<std::byte> bytes = memory_.slice(address, length).value();
  return {bytes.begin(), bytes.end()};
}

void FakeGuest::fill(GuestAddress address, std::uint64_t length, std::byte value) {
  const auto bytes = memory_.slice(address, length).value();
  std::memset(bytes.data(), std::to_integer<int>(value), bytes.size());
}

// ---- DriverQueue ----

DriverQueue::DriverQueue(FakeGuest& guest, std::uint16_t size, std::uint64_t features)
    : DriverQueue(guest, lay_out(guest, size), features) {}

DriverQueue::DriverQueue(FakeGuest& guest, const virtio::QueueLayout& layout, std::uint64_t features)
    : guest_(guest), layout_(layout), features_(features) {
  for (std::uint32_t i = layout.size; i > 0; --i) free_.push_back(static_cast<std::uint16_t>(i - 1));
}

virtio::Queue DriverQueue::device_queue() const {
  auto queue = virtio::Queue::create(guest_.memory(), layout_, features_);
  if (!queue) throw std::runtime_error(queue.error().message);
  return std::move(*queue);
}

base::GuestAtomic16 DriverQueue::at(GuestAddress ring, std::uint64_t offset) const {
  return guest_.memory().atomic16(ring.unchecked_add(offset)).value();
}

std::uint16_t DriverQueue::take_free() {
  if (free_.empty()) throw std::runtime_error("the driver has no free descriptor left");
  const std::uint16_t index = free_.back();
  free_.pop_back();
  return index;
}

std::uint16_t DriverQueue::submit(std::span<const Buffer> buffers) {
  if (buffers.empty() || buffers.size() > free_.size()) throw std::runtime_error("cannot submit this chain");
  std::vector<std::uint16_t> taken;
  for (std::size_t i = 0; i < buffers.size(); ++i) taken.push_back(take_free());
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const bool last = i + 1 == buffers.size();
    const auto flags = static_cast<std::uint16_t>((buffers[i].writable ? kWrite : 0) | (last ? 0 : kNext));
    write_descriptor(taken[i], {buffers[i].address.value(), buffers[i].length, flags,
                                last ? std::uint16_t{0} : taken[i + 1]});
  }
  const std::uint16_t head = taken.front();
  descriptors_of_[head] = std::move(taken);
  buffers_of_[head] = {buffers.begin(), buffers.end()};
  make_available(head);
  return head;
}

std::uint16_t DriverQueue::submit_indirect(std::span<const Buffer> buffers, std::size_t direct_count) {
  const std::span<const Buffer> in_table = buffers.subspan(direct_count);
  const GuestAddress table = guest_.allocate(sizeof(RawDescriptor) * in_table.size());
  for (std::size_t i = 0; i < in_table.size(); ++i) {
    const bool last = i + 1 == in_table.size();
    const auto flags = static_cast<std::uint16_t>((in_table[i].writable ? kWrite : 0) | (last ? 0 : kNext));
    const RawDescriptor descriptor{in_table[i].address.value(), in_table[i].length, flags,
                                   static_cast<std::uint16_t>(last ? 0 : i + 1)};
    guest_.store(table.unchecked_add(i * sizeof(RawDescriptor)), descriptor);
  }
  std::vector<std::uint16_t> taken;
  for (std::size_t i = 0; i <= direct_count; ++i) taken.push_back(take_free());
  for (std::size_t i = 0; i < direct_count; ++i) {
    const auto flags = static_cast<std::uint16_t>((buffers[i].writable ? kWrite : 0) | kNext);
    write_descriptor(taken[i], {buffers[i].address.value(), buffers[i].length, flags, taken[i + 1]});
  }
  const auto table_size = static_cast<std::uint32_t>(sizeof(RawDescriptor) * in_table.size());
  write_descriptor(taken.back(), {table.value(), table_size, kIndirect, std::uint16_t{0}});
  const std::uint16_t head = taken.front();
  descriptors_of_[head] = std::move(taken);
  buffers_of_[head] = {buffers.begin(), buffers.end()};
  make_available(head);
  return head;
}

std::optional<Used> DriverQueue::take_used() {
  // Acquire: the element and the buffers are read after the index.
  if (at(layout_.used_ring, 2).load_acquire() == next_used_) return std::nullopt;
  const std::uint64_t slot = next_used_ % std::uint32_t{layout_.size};
  const GuestAddress element = layout_.used_ring.unchecked_add(4 + 8 * slot);
  const Used used{static_cast<std::uint16_t>(guest_.load<base::Le32>(element)),
                  guest_.load<base::Le32>(element.unchecked_add(4))};
  ++next_used_;
  if (const auto chain = descriptors_of_.find(used.id); chain != descriptors_of_.end()) {
    free_.insert(free_.end(), chain->second.rbegin(), chain->second.rend());
    descriptors_of_.erase(chain);
  }
  return used;
}

std::vector<std::byte> DriverQueue::bytes_of(std::uint16_t head) const {
  std::vector<std::byte> all;
  for (const Buffer& buffer : buffers_of_.at(head)) {
    if (!buffer.writable) continue;
    const auto part = guest_.read(buffer.address, buffer.length);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

bool DriverQueue::should_kick() {
  const std::uint16_t before = std::exchange(kicked_, next_available_);
  if (before == next_available_) return false;
  // The counterpart of Queue::enable_notifications().
  virtio::full_fence();
  if ((features_ & virtio::kFeatureEventIdx) == 0) return (used_flags() & 1) == 0;
  const auto past_event = static_cast<std::uint16_t>(next_available_ - available_event() - 1);
  return past_event < static_cast<std::uint16_t>(next_available_ - before);
}

void DriverQueue::write_descriptor(std::uint16_t index, const RawDescriptor& descriptor) {
  guest_.store(layout_.descriptor_table.unchecked_add(std::uint64_t{16} * index), descriptor);
}

void DriverQueue::write_available_entry(std::uint16_t head) {
  const std::uint64_t slot = next_available_ % std::uint32_t{layout_.size};
  guest_.store(layout_.available_ring.unchecked_add(4 + 2 * slot), base::Le16(head));
}

void DriverQueue::make_available(std::uint16_t head) {
  write_available_entry(head);
  set_available_index(static_cast<std::uint16_t>(next_available_ + 1));
}

void DriverQueue::set_available_index(std::uint16_t index) {
  next_available_ = index;
  at(layout_.available_ring, 2).store_release(index);
}

void DriverQueue::set_available_flags(std::uint16_t flags) {
  at(layout_.available_ring, 0).store_relaxed(flags);
}

void DriverQueue::set_used_event(std::uint16_t index) {
  at(layout_.available_ring, 4 + std::uint64_t{2} * layout_.size).store_relaxed(index);
  // The counterpart of Queue::should_notify().
  virtio::full_fence();
}

std::uint16_t DriverQueue::available_event() const {
  return at(layout_.used_ring, 4 + std::uint64_t{8} * layout_.size).load_relaxed();
}

std::uint16_t DriverQueue::used_flags() const {
  return at(layout_.used_ring, 0).load_relaxed();
}

std::uint16_t DriverQueue::used_index() const {
  return at(layout_.used_ring, 2).load_acquire();
}

void DriverQueue::start_at(std::uint16_t index) {
  next_used_ = index;
  kicked_ = index;
  set_available_index(index);
  at(layout_.used_ring, 2).store_release(index);
}

// ---- ChainBuilder ----

ChainBuilder& ChainBuilder::readable(std::span<const std::byte> content) {
  return buffer(guest_.allocate_bytes(content), static_cast<std::uint32_t>(content.size()), false);
}

ChainBuilder& ChainBuilder::readable(std::string_view content) {
  return readable(std::as_bytes(std::span(content)));
}

ChainBuilder& ChainBuilder::writable(std::uint32_t length) {
  const GuestAddress address = guest_.allocate(length);
  guest_.fill(address, length, std::byte{0xee});
  return buffer(address, length, true);
}

ChainBuilder& ChainBuilder::buffer(GuestAddress address, std::uint32_t length, bool writable) {
  buffers_.push_back({address, length, writable});
  return *this;
}

ChainBuilder& ChainBuilder::split(std::uint32_t size) {
  std::vector<Buffer> pieces;
  for (const Buffer& whole : buffers_) {
    for (std::uint32_t at = 0; at < whole.length; at += size) {
      pieces.push_back({whole.address.unchecked_add(at), std::min(size, whole.length - at), whole.writable});
    }
  }
  buffers_ = std::move(pieces);
  return *this;
}

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::string to_text(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text.push_back(static_cast<char>(byte));
  return text;
}

}  // namespace mayfly::test
