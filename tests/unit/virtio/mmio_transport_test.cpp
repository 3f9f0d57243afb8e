// The virtio-mmio registers as drivers use them, and misuse them.
#include <catch2/catch.hpp>

#include "tests/support/mmio_driver.h"
#include "tests/support/virtio_driver.h"
#include "tests/unit/virtio/fake_device.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using test::DriverQueue;
using test::FakeDevice;
using test::FakeGuest;
using test::MmioDriver;
namespace reg = test::reg;

namespace {

constexpr std::uint32_t kRunning = kStatusAcknowledge | kStatusDriver | kStatusFeaturesOk | kStatusDriverOk;
constexpr std::uint64_t kFeatures = kFeatureVersion1 | kFeatureIndirectDesc;

struct Bench {
  FakeGuest guest;
  FakeDevice device;
  int irqs = 0;
  MmioTransport transport{device, guest.memory(), [this] { ++irqs; }};
  MmioDriver driver{transport};
  DriverQueue first{guest, 64};
  DriverQueue second{guest, 16};

  void start() {
    REQUIRE(driver.negotiate(kFeatures));
    driver.set_queue(0, first.layout());
    driver.set_queue(1, second.layout());
    driver.start();
    REQUIRE(driver.status() == kRunning);
    REQUIRE(device.active);
  }
};

}  // namespace

TEST_CASE("what a driver sees first") {
  Bench b;
  CHECK(b.driver.read(reg::kMagicValue) == 0x74726976);
  CHECK(b.driver.read(reg::kVersion) == 2);
  CHECK(b.driver.read(reg::kDeviceId) == 19);
  CHECK(b.driver.read(reg::kVendorId) != 0);
  CHECK(b.driver.status() == 0);
  CHECK(b.driver.read(reg::kInterruptStatus) == 0);
}

TEST_CASE("features are offered in two windows, others are empty") {
  Bench b;
  CHECK(b.driver.offered() == (b.device.offered_features() | kFeatureVersion1));
  for (const std::uint32_t window : {2U, 31U, 32U, 33U, 64U, 0x80000000U, 0xffffffffU}) {
    b.driver.write(reg::kDeviceFeaturesSel, window);
    CHECK(b.driver.read(reg::kDeviceFeatures) == 0);
  }
}

TEST_CASE("a device runs from reset to a request served") {
  Bench b;
  b.start();
  CHECK(b.device.active->features == kFeatures);
  CHECK(b.device.active->queues[0].size() == 64);
  CHECK(b.device.active->queues[1].size() == 16);
  test::ChainBuilder(b.guest).readable("x").submit(b.second);
  b.driver.notify(1);
  CHECK(b.second.take_used());
  CHECK(b.irqs == 1);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptUsed);
  b.driver.write(reg::kInterruptAck, kInterruptUsed);
  CHECK(b.driver.read(reg::kInterruptStatus) == 0);
  CHECK(b.transport.metrics().activations == 1);
  CHECK(b.transport.metrics().notifications == 1);
}

TEST_CASE("notifications by way of queue_notified are the same") {
  Bench b;
  b.start();
  test::ChainBuilder(b.guest).readable("x").submit(b.first);
  b.transport.queue_notified(0);
  CHECK(b.first.take_used());
  CHECK(b.device.notified[0] == 1);
}

TEST_CASE("a queue that the driver leaves alone is not ready, the device starts without it") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.set_queue(1, b.second.layout());
  b.driver.start();
  REQUIRE(b.device.active);
  CHECK_FALSE(b.device.active->queues[0].ready());
  CHECK(b.device.active->queues[1].ready());
  b.driver.notify(0);
  CHECK(b.device.notified[0] == 0);
  CHECK(b.transport.metrics().stray_notifications == 1);
}

// ---- Status ----

TEST_CASE("status: of all writes only the next step, FAILED, the same and reset are taken") {
  const std::array<std::uint32_t, 5> steps = {0, 1, 3, 11, 15};
  for (std::size_t at = 0; at < steps.size(); ++at) {
    for (std::uint32_t value = 0; value <= 0x100; ++value) {
      Bench b;
      if (at >= 1) b.driver.write(reg::kStatus, 1U);
      if (at >= 2) b.driver.write(reg::kStatus, 3U);
      if (at >= 2) b.driver.accept(kFeatures);
      if (at >= 3) b.driver.write(reg::kStatus, 11U);
      if (at >= 4) b.driver.write(reg::kStatus, 15U);
      REQUIRE(b.driver.status() == steps[at]);
      b.driver.write(reg::kStatus, value);
      std::uint32_t expected = steps[at];
      if (value == 0) expected = 0;
      if (at + 1 < steps.size() && value == steps[at + 1]) expected = value;
      if (value == (steps[at] | kStatusFailed)) expected = value;
      if (b.driver.status() != expected) FAIL("status " << steps[at] << " then " << value);
    }
  }
}

TEST_CASE("status: illegal transitions are counted") {
  Bench b;
  b.driver.write(reg::kStatus, kRunning);
  b.driver.write(reg::kStatus, 2U);
  CHECK(b.driver.status() == 0);
  CHECK(b.transport.metrics().illegal_transitions == 2);
  CHECK_FALSE(b.device.active);
}

TEST_CASE("status: after FAILED nothing is served until reset") {
  Bench b;
  b.start();
  b.driver.add_status(kStatusFailed);
  CHECK(b.driver.status() == (kRunning | kStatusFailed));
  CHECK_FALSE(b.device.active);
  b.driver.notify(0);
  CHECK(b.device.notified[0] == 0);
  b.driver.write(reg::kStatus, kRunning);
  CHECK(b.driver.status() == (kRunning | kStatusFailed));
  b.start();
  CHECK(b.driver.status() == kRunning);
}

TEST_CASE("status: a driver cannot set DEVICE_NEEDS_RESET itself") {
  Bench b;
  b.start();
  b.driver.add_status(kStatusDeviceNeedsReset);
  CHECK(b.driver.status() == kRunning);
}

// ---- Features ----

TEST_CASE("features: FEATURES_OK is refused without VERSION_1") {
  Bench b;
  CHECK_FALSE(b.driver.negotiate(kFeatureIndirectDesc));
  CHECK(b.transport.metrics().refused_features == 1);
  // It may try again.
  b.driver.accept(kFeatures);
  b.driver.add_status(kStatusFeaturesOk);
  CHECK((b.driver.status() & kStatusFeaturesOk) != 0);
}

TEST_CASE("features: FEATURES_OK is refused for any bit that was not offered") {
  Bench b;
  for (unsigned bit = 0; bit < 64; ++bit) {
    const std::uint64_t feature = 1ULL << bit;
    const bool offered = ((b.device.offered_features() | kFeatureVersion1) & feature) != 0;
    CHECK(b.driver.negotiate(kFeatureVersion1 | feature) == offered);
  }
}

TEST_CASE("features: FEATURES_OK is refused for bits from 64 up") {
  Bench b;
  b.driver.add_status(kStatusAcknowledge);
  b.driver.add_status(kStatusDriver);
  b.driver.write(reg::kDriverFeaturesSel, 2U);
  b.driver.write(reg::kDriverFeatures, 1U);
  b.driver.accept(kFeatures);
  b.driver.add_status(kStatusFeaturesOk);
  CHECK((b.driver.status() & kStatusFeaturesOk) == 0);
}

TEST_CASE("features: no change after FEATURES_OK, nor before DRIVER") {
  Bench b;
  b.driver.accept(~0ULL);  // not yet a driver: ignored
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.accept(kFeatures | FakeDevice::kOwnFeature);
  b.driver.set_queue(0, b.first.layout());
  b.driver.start();
  CHECK(b.device.active->features == kFeatures);
}

// ---- Queues ----

TEST_CASE("queues: the largest sizes, and none beyond the last queue") {
  Bench b;
  b.driver.write(reg::kQueueSel, 0U);
  CHECK(b.driver.read(reg::kQueueNumMax) == 64);
  b.driver.write(reg::kQueueSel, 1U);
  CHECK(b.driver.read(reg::kQueueNumMax) == 16);
  for (const std::uint32_t index : {2U, 0xffffU, 0xffffffffU}) {
    b.driver.write(reg::kQueueSel, index);
    CHECK(b.driver.read(reg::kQueueNumMax) == 0);
    CHECK(b.driver.read(reg::kQueueReady) == 0);
  }
}

TEST_CASE("queues: writes to one that does not exist go nowhere") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.set_queue(2, b.first.layout());
  b.driver.set_queue(0xffffffffU, b.first.layout());
  CHECK(b.driver.read(reg::kQueueReady) == 0);
  b.driver.start();
  CHECK_FALSE(b.device.active->queues[0].ready());
  CHECK_FALSE(b.device.active->queues[1].ready());
}

TEST_CASE("queues: set-up is not taken before FEATURES_OK") {
  Bench b;
  b.driver.add_status(kStatusAcknowledge);
  b.driver.add_status(kStatusDriver);
  b.driver.set_queue(0, b.first.layout());
  CHECK(b.driver.read(reg::kQueueReady) == 0);
}

TEST_CASE("queues: set-up is not taken while live") {
  Bench b;
  b.start();
  const auto before = b.transport.save();
  b.driver.write(reg::kQueueSel, 0U);
  b.driver.write(reg::kQueueReady, 0U);
  CHECK(b.driver.read(reg::kQueueReady) == 1);
  b.driver.set_queue(0, b.second.layout());
  const auto after = b.transport.save();
  CHECK(after.queues[0].size == before.queues[0].size);
  CHECK(after.queues[0].descriptor_table == before.queues[0].descriptor_table);
  CHECK(after.queues[0].available_ring == before.queues[0].available_ring);
  CHECK(after.queues[0].used_ring == before.queues[0].used_ring);
}

TEST_CASE("queues: addresses and size stay while QueueReady is 1, and may change after it is 0") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.set_queue(0, b.first.layout());
  b.driver.set_queue(0, b.second.layout());
  CHECK(b.transport.save().queues[0].descriptor_table == b.first.layout().descriptor_table.value());
  CHECK(b.transport.save().queues[0].size == 64);
  b.driver.write(reg::kQueueReady, 0U);
  b.driver.set_queue(0, b.second.layout());
  CHECK(b.transport.save().queues[0].descriptor_table == b.second.layout().descriptor_table.value());
  CHECK(b.transport.save().queues[0].size == 16);
}

TEST_CASE("queues: a size that is no power of two or too large is not taken") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  for (const std::uint32_t size : {0U, 3U, 65U, 128U, 0x10000U, 0x10040U, 0x80000000U, 0xffffffffU}) {
    b.driver.write(reg::kQueueNum, size);
    CHECK(b.transport.save().queues[0].size == 0);
  }
  b.driver.write(reg::kQueueNum, 64U);
  CHECK(b.transport.save().queues[0].size == 64);
}

TEST_CASE("queues: 64-bit addresses are put together from their halves") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  QueueLayout layout = b.first.layout();
  layout.descriptor_table = GuestAddress(FakeGuest::kHighStart);
  layout.available_ring = GuestAddress(FakeGuest::kHighStart + 0x4000);
  layout.used_ring = GuestAddress(FakeGuest::kHighStart + 0x8000);
  b.driver.set_queue(0, layout);
  b.driver.start();
  REQUIRE(b.device.active);
  DriverQueue high(b.guest, layout, kFeatures);
  test::ChainBuilder(b.guest).readable("x").submit(high);
  b.driver.notify(0);
  CHECK(high.take_used());
}

TEST_CASE("queues: rings that cannot be make the device DEVICE_NEEDS_RESET at DRIVER_OK") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  QueueLayout layout = b.first.layout();
  SECTION("outside memory") {
    layout.used_ring = GuestAddress(0x90000000);
  }
  SECTION("overlapping") {
    layout.used_ring = layout.descriptor_table;
  }
  SECTION("of no size") {
    layout.size = 0;
  }
  b.driver.set_queue(0, layout);
  b.driver.start();
  CHECK(b.driver.status() == (kRunning | kStatusDeviceNeedsReset));
  CHECK_FALSE(b.device.active);
  CHECK(b.irqs == 1);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptConfig);
  CHECK(b.transport.metrics().device_errors == 1);
  b.driver.notify(0);
  CHECK(b.device.notified[0] == 0);
  // And the driver can start over.
  b.start();
}

TEST_CASE("a device that refuses to start is DEVICE_NEEDS_RESET") {
  Bench b;
  b.device.refuse_activation = true;
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.start();
  CHECK(b.driver.status() == (kRunning | kStatusDeviceNeedsReset));
  b.device.refuse_activation = false;
  b.start();
}

// ---- Notifications ----

TEST_CASE("notifications for what is not there are dropped and counted") {
  Bench b;
  b.driver.notify(0);  // not active
  b.start();
  for (const std::uint32_t index : {2U, 0xffffU, 0x10000U, 0xffffffffU}) b.driver.notify(index);
  b.transport.queue_notified(7);
  CHECK(b.device.notified[0] == 0);
  CHECK(b.device.notified[1] == 0);
  CHECK(b.transport.metrics().stray_notifications == 6);
}

// ---- Errors and reset ----

TEST_CASE("a broken queue stops the device until reset, with one configuration interrupt") {
  Bench b;
  b.start();
  b.first.set_available_index(1000);
  b.driver.notify(0);
  CHECK(b.driver.status() == (kRunning | kStatusDeviceNeedsReset));
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptConfig);
  CHECK(b.irqs == 1);
  // The other queue is not served either.
  test::ChainBuilder(b.guest).readable("x").submit(b.second);
  b.driver.notify(1);
  CHECK(b.device.notified[1] == 0);
  CHECK_FALSE(b.second.take_used());
  CHECK(b.irqs == 1);
  CHECK(b.transport.metrics().device_errors == 1);
}

TEST_CASE("reset while running takes everything back, and the driver can start again") {
  Bench b;
  b.start();
  test::ChainBuilder(b.guest).readable("x").submit(b.first);
  b.driver.notify(0);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptUsed);
  b.driver.write(reg::kQueueSel, 1U);
  b.driver.write(reg::kStatus, 0U);
  CHECK(b.driver.status() == 0);
  CHECK(b.driver.read(reg::kInterruptStatus) == 0);
  CHECK_FALSE(b.device.active);
  CHECK(b.device.resets > 0);
  for (const std::uint32_t index : {0U, 1U}) {
    b.driver.write(reg::kQueueSel, index);
    CHECK(b.driver.read(reg::kQueueReady) == 0);
  }
  b.driver.notify(0);
  CHECK(b.device.notified[0] == 1);

  DriverQueue fresh(b.guest, 64);
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.set_queue(0, fresh.layout());
  b.driver.start();
  test::ChainBuilder(b.guest).readable("y").submit(fresh);
  b.driver.notify(0);
  CHECK(fresh.take_used());
}

TEST_CASE("reset of a device that was never started") {
  Bench b;
  b.driver.write(reg::kStatus, 0U);
  b.driver.write(reg::kStatus, 0U);
  CHECK(b.driver.status() == 0);
  CHECK(b.transport.metrics().resets == 2);
}

TEST_CASE("a transport that goes away takes its queues from the device") {
  FakeGuest guest;
  FakeDevice device;
  {
    MmioTransport transport(device, guest.memory(), [] {});
    MmioDriver driver(transport);
    REQUIRE(driver.negotiate(kFeatures));
    driver.start();
    REQUIRE(device.active);
  }
  CHECK_FALSE(device.active);
}

// ---- Interrupts ----

TEST_CASE("acknowledging clears only the bits that were written") {
  Bench b;
  b.start();
  b.device.tell_config_changed();
  test::ChainBuilder(b.guest).readable("x").submit(b.first);
  b.driver.notify(0);
  CHECK(b.driver.read(reg::kInterruptStatus) == (kInterruptUsed | kInterruptConfig));
  b.driver.write(reg::kInterruptAck, kInterruptConfig);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptUsed);
  b.driver.write(reg::kInterruptAck, 0xfffffffeU);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptUsed);
  b.driver.write(reg::kInterruptAck, 0xffffffffU);
  CHECK(b.driver.read(reg::kInterruptStatus) == 0);
}

TEST_CASE("every notification raises the line, also while the bit is set") {
  Bench b;
  b.start();
  for (int i = 0; i < 3; ++i) {
    test::ChainBuilder(b.guest).readable("x").submit(b.first);
    b.driver.notify(0);
  }
  CHECK(b.irqs == 3);
}

TEST_CASE("the config generation moves with each change, interrupts only a running driver, survives reset") {
  Bench b;
  const auto at_first = b.driver.read(reg::kConfigGeneration);
  b.device.tell_config_changed();
  CHECK(b.driver.read(reg::kConfigGeneration) == at_first + 1);
  CHECK(b.irqs == 0);
  CHECK(b.driver.read(reg::kInterruptStatus) == 0);
  b.start();
  b.device.tell_config_changed();
  CHECK(b.driver.read(reg::kConfigGeneration) == at_first + 2);
  CHECK(b.irqs == 1);
  CHECK(b.driver.read(reg::kInterruptStatus) == kInterruptConfig);
  b.driver.write(reg::kStatus, 0U);
  CHECK(b.driver.read(reg::kConfigGeneration) == at_first + 2);
}

// ---- Odd accesses ----

TEST_CASE("config space: 1, 2, 4 and 8 bytes at any place, zero past its end") {
  Bench b;
  for (std::size_t i = 0; i < b.device.config.size(); ++i) b.device.config[i] = std::byte(i + 1);
  CHECK(b.driver.read<std::uint8_t>(reg::kConfig + 1) == 0x02);
  CHECK(b.driver.read<std::uint16_t>(reg::kConfig + 2) == 0x0403);
  CHECK(b.driver.read<std::uint32_t>(reg::kConfig + 4) == 0x08070605);
  CHECK(b.driver.read<std::uint64_t>(reg::kConfig) == 0x0807060504030201);
  CHECK(b.driver.read<std::uint32_t>(reg::kConfig + 3) == 0x07060504);
  CHECK(b.driver.read<std::uint64_t>(reg::kConfig + 8) == 0x0c0b0a09);
  CHECK(b.driver.read<std::uint32_t>(reg::kConfig + 11) == 0x0c);
  CHECK(b.driver.read<std::uint32_t>(0xffc) == 0);
  b.driver.write<std::uint16_t>(reg::kConfig, 0xbeef);
  CHECK(b.driver.read<std::uint16_t>(reg::kConfig) == 0xbeef);
  b.driver.write<std::uint64_t>(0xff8, 1);
  CHECK(b.transport.metrics().bad_accesses == 0);
}

TEST_CASE("config space: accesses that leave the page or have an odd width") {
  Bench b;
  CHECK(b.driver.read<std::uint64_t>(0xffc) == ~0ULL);
  b.driver.write<std::uint64_t>(0xffc, 1);
  std::array<std::byte, 16> wide{};
  b.transport.read(reg::kConfig, wide);
  CHECK(wide == [] {
    std::array<std::byte, 16> ones{};
    ones.fill(std::byte{0xff});
    return ones;
  }());
  std::array<std::byte, 3> three{};
  b.transport.read(reg::kConfig, three);
  CHECK(three[2] == std::byte{0xff});
  b.transport.write(reg::kConfig, three);
  b.transport.read(reg::kConfig, {});
  b.transport.write(reg::kConfig, {});
  std::array<std::byte, 4> four{};
  b.transport.read(~0ULL, four);
  b.transport.write(~0ULL - 1, four);
  CHECK(b.transport.metrics().bad_accesses == 9);
  CHECK(b.device.config == std::array<std::byte, 12>{});
}

TEST_CASE("registers: accesses of another width or alignment read as ones and write nothing") {
  Bench b;
  CHECK(b.driver.read<std::uint8_t>(reg::kMagicValue) == 0xff);
  CHECK(b.driver.read<std::uint16_t>(reg::kMagicValue) == 0xffff);
  CHECK(b.driver.read<std::uint64_t>(reg::kMagicValue) == ~0ULL);
  CHECK(b.driver.read<std::uint32_t>(reg::kMagicValue + 1) == ~0U);
  CHECK(b.driver.read<std::uint32_t>(reg::kMagicValue + 2) == ~0U);
  CHECK(b.driver.read<std::uint32_t>(0xfe) == ~0U);
  b.driver.write<std::uint8_t>(reg::kStatus, 1);
  b.driver.write<std::uint16_t>(reg::kStatus, 1);
  b.driver.write<std::uint64_t>(reg::kStatus, 1);
  CHECK(b.driver.status() == 0);
  CHECK(b.transport.metrics().bad_accesses == 9);
}

TEST_CASE("registers: unknown and write-only ones read as zero, read-only ones are not written") {
  Bench b;
  for (const std::uint64_t offset : {0x18ULL, 0x48ULL, 0x74ULL, 0xc0ULL, 0xf8ULL, 0x14ULL, 0x20ULL, 0x30ULL,
                                     0x38ULL, 0x50ULL, 0x64ULL, 0x80ULL}) {
    CHECK(b.driver.read(offset) == 0);
  }
  for (const std::uint64_t offset :
       {0x0ULL, 0x4ULL, 0x8ULL, 0xcULL, 0x10ULL, 0x34ULL, 0x60ULL, 0xb0ULL, 0xfcULL, 0x18ULL, 0xf8ULL}) {
    b.driver.write(offset, 0x12345678U);
  }
  CHECK(b.driver.read(reg::kMagicValue) == 0x74726976);
  CHECK(b.driver.read(reg::kConfigGeneration) == 0);
  CHECK(b.transport.metrics().bad_accesses == 23);
}

TEST_CASE("registers: there is no shared memory region") {
  Bench b;
  for (const std::uint32_t region : {0U, 1U, 0xffffffffU}) {
    b.driver.write(reg::kShmSel, region);
    for (std::uint64_t offset = reg::kShmLenLow; offset <= reg::kShmBaseHigh; offset += 4) {
      CHECK(b.driver.read(offset) == ~0U);
    }
  }
}

TEST_CASE("registers: every offset and width can be read and written in every phase") {
  for (int phase = 0; phase < 3; ++phase) {
    Bench b;
    if (phase >= 1) REQUIRE(b.driver.negotiate(kFeatures));
    if (phase >= 2) b.start();
    std::array<std::byte, 8> buffer{};
    for (const unsigned fill : {0x00U, 0x01U, 0xffU}) {
      for (std::uint64_t offset = 0; offset < 0x1010; ++offset) {
        for (const std::size_t width : {1U, 2U, 3U, 4U, 8U}) {
          b.transport.read(offset, std::span(buffer).first(width));
          buffer.fill(static_cast<std::byte>(fill));
          b.transport.write(offset, std::span(buffer).first(width));
        }
      }
    }
  }
  SUCCEED();
}

// ---- State ----

TEST_CASE("a saved transport goes on where it was") {
  Bench b;
  b.start();
  test::ChainBuilder(b.guest).readable("x").submit(b.first);
  b.driver.notify(0);
  REQUIRE(b.first.take_used());
  const auto state = b.transport.save();
  const std::array<Queue::State, 2> queues = {b.device.active->queues[0].save(),
                                              b.device.active->queues[1].save()};
  const auto head = test::ChainBuilder(b.guest).readable("y").submit(b.first);

  FakeDevice device;
  int irqs = 0;
  MmioTransport transport(device, b.guest.memory(), [&] { ++irqs; });
  REQUIRE(transport.restore(state, queues));
  MmioDriver driver(transport);
  CHECK(driver.status() == kRunning);
  CHECK(driver.read(reg::kInterruptStatus) == kInterruptUsed);
  CHECK(driver.read(reg::kConfigGeneration) == b.driver.read(reg::kConfigGeneration));
  driver.notify(0);
  CHECK(b.first.take_used()->id == head);
  CHECK_FALSE(b.first.take_used());
  CHECK(irqs == 1);
}

TEST_CASE("what was made available before the state was saved is found when all queues are notified") {
  Bench b;
  b.start();
  const auto head = test::ChainBuilder(b.guest).readable("x").submit(b.second);
  FakeDevice device;
  MmioTransport transport(device, b.guest.memory(), [] {});
  transport.notify_all_queues();  // nothing is active: nothing happens
  REQUIRE(transport.restore(b.transport.save(), {}));
  CHECK_FALSE(b.second.take_used());
  transport.notify_all_queues();
  CHECK(b.second.take_used()->id == head);
}

TEST_CASE("a transport saved in the middle of set-up") {
  Bench b;
  REQUIRE(b.driver.negotiate(kFeatures));
  b.driver.set_queue(0, b.first.layout());
  FakeDevice device;
  MmioTransport transport(device, b.guest.memory(), [] {});
  REQUIRE(transport.restore(b.transport.save(), {}));
  CHECK_FALSE(device.active);
  MmioDriver driver(transport);
  driver.start();
  REQUIRE(device.active);
  CHECK(device.active->queues[0].ready());
}

TEST_CASE("a saved state that does not fit is refused") {
  Bench b;
  b.start();
  auto state = b.transport.save();
  FakeDevice device;
  MmioTransport transport(device, b.guest.memory(), [] {});
  SECTION("another number of queues") {
    state.queues.resize(3);
  }
  SECTION("a queue too large") {
    state.queues[1].size = 32;
  }
  SECTION("a queue outside memory") {
    state.queues[1].used_ring = 0xfffffff0;
  }
  SECTION("features that are not offered") {
    state.driver_features |= 1;
  }
  CHECK_FALSE(transport.restore(state, {}));
  CHECK_FALSE(device.active);
}
