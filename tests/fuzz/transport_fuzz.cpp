// The mmio transport's registers against any order of accesses: the status bits only go the ways of section
// 3.1.1, a device is active exactly while the driver may use it, with queues that lie in memory and features
// that were offered, and what is saved is what is restored.
#include <optional>

#include "tests/fuzz/guest.h"
#include "tests/fuzz/quiet_loop.h"
#include "tests/support/mmio_driver.h"
#include "tests/support/virtio_driver.h"
#include "tests/unit/virtio/fake_device.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using fuzz::Input;
using fuzz::require;

namespace {

struct Bench {
  test::FakeGuest& guest;
  test::FakeDevice device;
  int irqs = 0;
  MmioTransport transport{device, guest.memory(), [this] { ++irqs; }};
  test::MmioDriver registers{transport};
};

void require_consistent(Bench& b) {
  const std::uint32_t status = b.registers.status();
  const bool running = (status & kStatusDriverOk) != 0;
  if ((status & kStatusFeaturesOk) != 0) require((status & kStatusDriver) != 0);
  if (!b.device.active) return;
  require(running);
  const Activation& given = *b.device.active;
  const std::uint64_t allowed = b.device.offered_features() | kFeatureVersion1;
  require((given.features & ~allowed) == 0 && (given.features & kFeatureVersion1) != 0);
  require(given.queues.size() == b.device.queue_sizes().size());
}

// The transport that takes over what this one saved says the same to every register read.
void require_restorable(Bench& b) {
  const MmioTransport::State saved = b.transport.save();
  Bench twin{b.guest, {}};
  std::vector<Queue::State> queues;
  if (b.device.active) {
    for (const Queue& queue : b.device.active->queues) queues.push_back(queue.save());
  }
  require(twin.transport.restore(saved, queues).has_value());
  const bool stopped = (saved.status & (kStatusFailed | kStatusDeviceNeedsReset)) != 0;
  require(twin.device.active.has_value() == (b.device.active.has_value() && !stopped));
  for (std::uint64_t offset = 0; offset < 0x100; offset += 4) {
    require(twin.registers.read(offset) == b.registers.read(offset));
  }
}

void access(Bench& b, Input& input) {
  const std::uint64_t offset = input.number() % kMmioSize;
  const std::size_t width = std::size_t{1} << (input.byte() % 4);
  const auto value = input.take<std::uint64_t>();
  std::array<std::byte, 8> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(value));
  const std::span<std::byte> data = std::span(bytes).first(width);
  if ((input.byte() & 1U) != 0) {
    b.transport.write(offset, data);
    return;
  }
  b.transport.read(offset, data);
  const bool proper = width == 4 && offset % 4 == 0;
  if (offset < test::reg::kConfig && !proper)
    require(std::ranges::all_of(data, [](std::byte byte) { return byte == std::byte{0xff}; }));
}

void write_status(Bench& b, std::uint32_t value) {
  const std::uint32_t before = b.registers.status();
  b.registers.write(test::reg::kStatus, value);
  const std::uint32_t after = b.registers.status();
  if (value == 0) {
    require(after == 0 && !b.device.active);
  } else {
    require((before & ~after) == 0);  // only a reset takes a bit back
  }
}

void set_up(Bench& b, Input& input) {
  b.registers.negotiate(input.byte() >= 64 ? b.registers.offered() : input.number());
  for (std::uint32_t index = 0; index < 2; ++index) {
    const std::uint64_t start = 0x10000 + index * 0x4000ULL;
    QueueLayout layout = {.size = static_cast<std::uint16_t>(1U << (input.byte() % 8)),
                          .descriptor_table = GuestAddress(start),
                          .available_ring = GuestAddress(start + 0x1000),
                          .used_ring = GuestAddress(start + 0x2000)};
    const std::uint8_t odd = input.byte();
    if (odd < 32) layout.size = static_cast<std::uint16_t>(input.number());
    if (odd >= 32 && odd < 64) layout.used_ring = GuestAddress(input.number());
    if (odd >= 64 && odd < 96) layout.descriptor_table = GuestAddress(input.number());
    b.registers.set_queue(index, layout);
  }
  b.registers.start();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::FakeGuest& guest = fuzz::fresh_guest();
  fuzz::quiet_loop();
  Input input(data, size);
  Bench b{guest, {}};
  b.device.refuse_activation = (input.byte() & 15U) == 0;
  while (!input.empty()) {
    switch (input.byte() % 8) {
      case 0:
        set_up(b, input);
        break;
      case 1:
        write_status(b, static_cast<std::uint32_t>(input.number()));
        break;
      case 2:
        b.registers.notify(static_cast<std::uint32_t>(input.number()));
        break;
      case 3:
        b.transport.queue_notified(static_cast<std::uint16_t>(input.number()));
        break;
      case 4:
        // A chain, or nonsense, in the first queue's ring.
        guest.store(GuestAddress(0x10000 + (input.number() % 0x6000)), input.take<std::uint64_t>());
        break;
      case 5:
        require_restorable(b);
        break;
      case 6:
        b.device.tell_config_changed();
        break;
      default:
        access(b, input);
    }
    require_consistent(b);
  }
  return 0;
}
