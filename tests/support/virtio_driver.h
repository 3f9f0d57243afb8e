// The driver's side of virtio: fake guest memory, queues laid out in it, descriptor chains both proper and
// hostile, and an interrupt that counts.
//
//   test::FakeGuest guest;
//   test::DriverQueue driver(guest, 16);
//   auto queue = *virtio::Queue::create(guest.memory(), driver.layout(), driver.features());
//   auto head = test::ChainBuilder(guest).readable("hello").writable(4).submit(driver);
//   … the device pops, writes, pushes …
//   auto used = driver.take_used();  // {id == head, length}
//   driver.bytes_of(head)            // what is in the chain's writable buffers
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/endian.h"
#include "base/guest_memory.h"
#include "virtio/device.h"
#include "virtio/queue.h"

namespace mayfly::test {

// Section 2.7.5 of virtio 1.2.
inline constexpr std::uint16_t kNext = 1;
inline constexpr std::uint16_t kWrite = 2;
inline constexpr std::uint16_t kIndirect = 4;

// As in section 2.7.5, for a test to write as it likes.
struct RawDescriptor {
  base::Le64 address;
  base::Le32 length;
  base::Le16 flags;
  base::Le16 next;
};
static_assert(sizeof(RawDescriptor) == 16 && base::Wire<RawDescriptor>);

// Guest memory of two regions: low RAM from 0 and a smaller one above 4 GiB. allocate() only ever takes more
// of the low one, from 64 KiB up, so that address 0 stays unused.
class FakeGuest {
 public:
  static constexpr std::uint64_t kHighStart = 1ULL << 32U;
  static constexpr std::uint64_t kHighSize = 1ULL << 20U;

  explicit FakeGuest(std::uint64_t low_size = 256ULL << 20U);

  [[nodiscard]] const base::GuestMemory& memory() const { return memory_; }
  [[nodiscard]] std::uint64_t low_size() const { return low_size_; }

  // Zeroed guest memory that nothing else uses. Throws when there is none left.
  base::GuestAddress allocate(std::uint64_t size, std::uint64_t alignment = 16);
  base::GuestAddress allocate_bytes(std::span<const std::byte> content);

  void write(base::GuestAddress address, std::span<const std::byte> content);
  [[nodiscard]] std::vector<std::byte> read(base::GuestAddress address, std::uint64_t length) const;
  void fill(base::GuestAddress address, std::uint64_t length, std::byte value);

  template <base::Wire T>
  void store(base::GuestAddress address, const T& value) {
    write(address, std::as_bytes(std::span(&value, 1)));
  }
  template <base::Wire T>
  [[nodiscard]] T load(base::GuestAddress address) const {
    return memory_.read<T>(address).value();
  }

 private:
  std::uint64_t low_size_;
  base::GuestMemory memory_;
  std::uint64_t next_free_ = 0x10000;
};

// One buffer of a chain.
struct Buffer {
  base::GuestAddress address;
  std::uint32_t length = 0;
  bool writable = false;
};

// What a device returned.
struct Used {
  std::uint16_t id = 0;
  std::uint32_t length = 0;
};

// The driver's half of one split queue. A well-behaved driver uses submit() and take_used(); the setters let
// a test be any other kind. Used from one thread.
class DriverQueue {
 public:
  // Lays a queue of `size` entries out in `guest`, rings zeroed.
  DriverQueue(FakeGuest& guest, std::uint16_t size,
              std::uint64_t features = virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc);
  // Drives a queue that lies where the test says.
  DriverQueue(FakeGuest& guest, const virtio::QueueLayout& layout, std::uint64_t features);

  [[nodiscard]] const virtio::QueueLayout& layout() const { return layout_; }
  [[nodiscard]] std::uint64_t features() const { return features_; }
  [[nodiscard]] std::uint16_t size() const { return layout_.size; }
  // The device side of it.
  [[nodiscard]] virtio::Queue device_queue() const;

  // Makes the buffers available as one chain; its head. Throws when there are too few free descriptors.
  std::uint16_t submit(std::span<const Buffer> buffers);
  // The same by way of one indirect table (after `direct_count` ordinary descriptors).
  std::uint16_t submit_indirect(std::span<const Buffer> buffers, std::size_t direct_count = 0);

  // The next used element, its descriptors freed; nothing when there is none.
  std::optional<Used> take_used();
  // The content of the writable buffers that the chain was last submitted with, joined; also after
  // take_used().
  [[nodiscard]] std::vector<std::byte> bytes_of(std::uint16_t head) const;
  [[nodiscard]] std::size_t free_descriptors() const { return free_.size(); }

  // Whether a driver that keeps to 2.7.10 notifies the device for what was submitted since the last call.
  bool should_kick();

  // The parts, for hostile and hand-made rings.
  void write_descriptor(std::uint16_t index, const RawDescriptor& descriptor);
  // Puts `head` into the available ring and moves the index on.
  void make_available(std::uint16_t head);
  // Puts `head` into the available ring, the index stays.
  void write_available_entry(std::uint16_t head);
  void set_available_index(std::uint16_t index);
  [[nodiscard]] std::uint16_t available_index() const { return next_available_; }
  void set_available_flags(std::uint16_t flags);
  void set_used_event(std::uint16_t index);
  [[nodiscard]] std::uint16_t available_event() const;
  [[nodiscard]] std::uint16_t used_flags() const;
  [[nodiscard]] std::uint16_t used_index() const;
  // Both sides are as if `index` chains had gone through; the device's half is restore()d by the test.
  void start_at(std::uint16_t index);

 private:
  [[nodiscard]] base::GuestAtomic16 at(base::GuestAddress ring, std::uint64_t offset) const;
  std::uint16_t take_free();

  FakeGuest& guest_;
  virtio::QueueLayout layout_;
  std::uint64_t features_;
  std::uint16_t next_available_ = 0;
  std::uint16_t next_used_ = 0;
  std::uint16_t kicked_ = 0;
  std::vector<std::uint16_t> free_;
  std::map<std::uint16_t, std::vector<std::uint16_t>> descriptors_of_;  // by head, while it is out
  std::map<std::uint16_t, std::vector<Buffer>> buffers_of_;             // by head
};

// Builds a chain buffer by buffer.
class ChainBuilder {
 public:
  explicit ChainBuilder(FakeGuest& guest) : guest_(guest) {}

  // A device-readable buffer with this content.
  ChainBuilder& readable(std::span<const std::byte> content);
  ChainBuilder& readable(std::string_view content);
  template <base::Wire T>
  ChainBuilder& readable_object(const T& value) {
    return readable(std::as_bytes(std::span(&value, 1)));
  }
  // A device-writable buffer of `length` bytes, filled with 0xee.
  ChainBuilder& writable(std::uint32_t length);
  // A buffer anywhere, inside memory or not.
  ChainBuilder& buffer(base::GuestAddress address, std::uint32_t length, bool writable);
  // Cuts every buffer so far into pieces of at most `size` bytes.
  ChainBuilder& split(std::uint32_t size);

  std::uint16_t submit(DriverQueue& queue) { return queue.submit(buffers_); }
  std::uint16_t submit_indirect(DriverQueue& queue, std::size_t direct_count = 0) {
    return queue.submit_indirect(buffers_, direct_count);
  }
  [[nodiscard]] const std::vector<Buffer>& buffers() const { return buffers_; }

 private:
  FakeGuest& guest_;
  std::vector<Buffer> buffers_;
};

// Counts what a device tells its driver. The counters may be read from any thread.
class FakeInterrupt : public virtio::Interrupt {
 public:
  void queue_used() override { ++used; }
  void config_changed() override { ++config; }
  void device_error() override { ++errors; }
  std::atomic<int> used = 0;
  std::atomic<int> config = 0;
  std::atomic<int> errors = 0;
};

std::vector<std::byte> to_bytes(std::string_view text);
std::string to_text(std::span<const std::byte> bytes);

}  // namespace mayfly::test
