// The split virtqueue against an arbitrary driver: layouts, rings, chains. Whatever comes, a chain that is
// handed out lies in guest memory and keeps to the rules, and a queue that broke stays broken.
#include <limits>

#include "tests/fuzz/guest.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/ring_writer.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using fuzz::Input;
using fuzz::require;

namespace {

void require_in_memory(const test::FakeGuest& guest, std::span<const std::span<std::byte>> spans) {
  for (const auto& span : spans) {
    require(!span.empty());
    bool inside = false;
    for (const auto& region : guest.memory().regions()) {
      const std::byte* start = region.mapping.data();
      inside = inside || (span.data() >= start && span.data() + span.size() <= start + region.mapping.size());
    }
    require(inside);
  }
}

// Reads, writes and measures a chain as devices do.
std::uint32_t use_chain(const test::FakeGuest& guest, Chain& chain, Input& input) {
  Reader& reader = chain.reader();
  Writer& writer = chain.writer();
  const std::uint64_t writable = writer.remaining();
  require(reader.remaining() + writable <= std::numeric_limits<std::uint32_t>::max());
  std::array<std::byte, 24> buffer{};
  reader.read(std::span(buffer).first(input.byte() % buffer.size()));
  const std::uint64_t tail_size = std::min<std::uint64_t>(input.byte(), writable);
  Writer tail = writer.split_tail(tail_size);
  require(tail.remaining() == tail_size && writer.remaining() == writable - tail_size);
  writer.write(std::span(buffer).first(input.byte() % buffer.size()));
  const std::uint64_t left = reader.remaining();
  const std::uint64_t skipped = reader.skip(input.number());
  require(reader.remaining() == left - skipped);
  require_in_memory(guest, reader.take_spans(reader.remaining()));
  require_in_memory(guest, writer.take_spans(input.number()));
  require_in_memory(guest, tail.take_spans(tail.remaining()));
  return static_cast<std::uint32_t>(writable);
}

void drive(Queue& queue, test::FakeGuest& guest, fuzz::RingWriter& writer, Input& input) {
  std::vector<Chain> held;
  bool broken = false;
  while (!input.empty()) {
    const std::uint8_t act = input.byte();
    switch (act % 8) {
      case 0:
      case 1:
      case 2:
        writer.act(input);
        break;
      case 3: {
        if (held.size() > 64) break;
        auto popped = queue.pop();
        require(!broken || !popped);
        broken = !popped;
        if (popped && *popped) {
          held.push_back(std::move(**popped));
          if ((act & 0x80U) != 0) {
            queue.undo_pop(std::move(held.back()));
            held.pop_back();
          }
        }
        break;
      }
      case 4:
        if (!held.empty()) {
          const std::uint32_t written = use_chain(guest, held.back(), input);
          queue.push(std::move(held.back()), written);
          held.pop_back();
        }
        break;
      case 5:
        static_cast<void>(queue.should_notify());
        break;
      case 6:
        static_cast<void>(queue.enable_notifications());
        break;
      default:
        if ((act & 0x80U) != 0) {
          queue.restore(queue.save());
        } else {
          queue.disable_notifications();
        }
    }
  }
  for (Chain& chain : held) chain.abandon();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::FakeGuest& guest = fuzz::fresh_guest();
  Input input(data, size);
  const std::uint8_t mode = input.byte();
  const std::uint64_t features = kFeatureVersion1 | ((mode & 1U) != 0 ? kFeatureIndirectDesc : 0) |
                                 ((mode & 2U) != 0 ? kFeatureEventIdx : 0);
  QueueLayout layout = {.size = static_cast<std::uint16_t>(1U << ((mode >> 2U) & 7U)),
                        .descriptor_table = GuestAddress(0x10000),
                        .available_ring = GuestAddress(0x11000),
                        .used_ring = GuestAddress(0x12000)};
  if ((mode & 0x20U) != 0) {
    // Any layout at all; what create() takes must then be usable like any other.
    layout = {.size = static_cast<std::uint16_t>(input.number()),
              .descriptor_table = GuestAddress(input.number()),
              .available_ring = GuestAddress(input.number()),
              .used_ring = GuestAddress(input.number())};
  }
  auto queue = Queue::create(guest.memory(), layout, features);
  if (!queue) return 0;
  require(std::has_single_bit(layout.size) && layout.size <= Queue::kLargestSize);
  test::DriverQueue driver(guest, layout, features);
  fuzz::RingWriter writer(guest, driver, GuestAddress(0x14000));
  drive(*queue, guest, writer, input);
  return 0;
}
