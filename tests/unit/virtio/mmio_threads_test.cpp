// Several vCPUs and the event loop at one device: run under ThreadSanitizer to mean the most.
#include <catch2/catch.hpp>

#include <atomic>
#include <thread>

#include "tests/support/mmio_driver.h"
#include "tests/support/virtio_driver.h"
#include "tests/unit/virtio/fake_device.h"

using namespace mayfly;
using namespace mayfly::virtio;
using test::DriverQueue;
using test::FakeDevice;
using test::FakeGuest;
using test::MmioDriver;
namespace reg = test::reg;

namespace {

constexpr std::uint64_t kWithEventIdx = kFeatureVersion1 | kFeatureEventIdx;

}  // namespace

TEST_CASE("one thread sets up and resets, one hammers registers, one notifies") {
  FakeGuest guest;
  FakeDevice device;
  std::atomic<int> irqs = 0;
  MmioTransport transport(device, guest.memory(), [&] { ++irqs; });
  const QueueLayout layout = DriverQueue(guest, 16).layout();
  std::atomic<bool> done = false;

  std::thread hammer([&] {
    MmioDriver driver(transport);
    std::uint32_t value = 1;
    while (!done) {
      for (std::uint64_t offset = 0; offset < 0x110; offset += 4) {
        driver.read(offset);
        // Everything but Status, which is the first thread's.
        if (offset != reg::kStatus) driver.write(offset, value);
        value = value * 1664525U + 1013904223U;
      }
    }
  });
  std::thread notifier([&] {
    while (!done) {
      transport.queue_notified(0);
      transport.queue_notified(1);
      device.tell_config_changed();
    }
  });
  MmioDriver driver(transport);
  for (int turn = 0; turn < 300; ++turn) {
    driver.negotiate(kWithEventIdx);
    driver.set_queue(0, layout);
    driver.set_queue(1, layout);
    driver.start();
    driver.notify(0);
  }
  done = true;
  hammer.join();
  notifier.join();
  driver.write(reg::kStatus, 0U);
  CHECK(driver.status() == 0);
  CHECK_FALSE(device.active);
}

TEST_CASE("a driver on one thread and the device on another lose no chain and no notification") {
  for (const std::uint64_t features : {kFeatureVersion1, kWithEventIdx}) {
    FakeGuest guest;
    DriverQueue driver(guest, 4, features);
    Queue queue = driver.device_queue();
    constexpr int kChains = 20000;
    // The two doorbells. Waiting on them is the only way either side learns of work once it went to sleep.
    std::atomic<int> kicks = 0;
    std::atomic<int> irqs = 0;
    std::atomic<bool> broken = false;

    std::thread device([&] {
      int served = 0;
      int seen = 0;
      while (served < kChains) {
        auto popped = queue.pop();
        if (!popped) {
          broken = true;
          return;
        }
        if (*popped) {
          queue.push(std::move(**popped), 0);
          ++served;
          if (queue.should_notify()) {
            ++irqs;
            irqs.notify_one();
          }
          continue;
        }
        if (queue.enable_notifications()) continue;
        kicks.wait(seen);
        seen = kicks;
        queue.disable_notifications();
      }
    });

    const test::Buffer buffer{base::GuestAddress(0x1000), 8, false};
    int submitted = 0;
    int returned = 0;
    int seen = 0;
    while (returned < kChains) {
      while (submitted < kChains && driver.free_descriptors() > 0) {
        driver.submit(std::span(&buffer, 1));
        ++submitted;
      }
      if (driver.should_kick()) {
        ++kicks;
        kicks.notify_one();
      }
      bool any = false;
      while (driver.take_used()) {
        ++returned;
        any = true;
      }
      if (any || returned == kChains) continue;
      // Ask for the next one, look once more, then sleep.
      driver.set_used_event(static_cast<std::uint16_t>(returned));
      if (driver.used_index() != static_cast<std::uint16_t>(returned)) continue;
      irqs.wait(seen);
      seen = irqs;
    }
    device.join();
    CHECK_FALSE(broken);
    CHECK(returned == kChains);
  }
}
