// A block device on a fake disk, behind a transport, and its driver.
#pragma once

#include <catch2/catch.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/fake_disk.h"
#include "tests/support/fake_ring.h"
#include "tests/support/mmio_driver.h"
#include "tests/support/virtio_driver.h"
#include "virtio/block/device.h"
#include "virtio/block/request.h"

namespace mayfly::test::block {

using namespace virtio;
using namespace virtio::block;

inline constexpr std::uint8_t kOk = 0;
inline constexpr std::uint8_t kIoError = 1;
inline constexpr std::uint8_t kUnsupported = 2;

// kAsync is on a ring of the test's, kUring on the kernel's.
enum class Engine { kSync, kAsync, kUring };

struct Options {
  // Absent: the test is run for both of kSync and kAsync.
  std::optional<Engine> engine = {};
  bool read_only = false;
  CacheType cache_type = CacheType::kWriteback;
  std::uint64_t declined = 0;  // features that the driver does not accept
  std::uint16_t queue_size = 128;
  bool discards = true;  // the disk can
  std::uint64_t sectors = 64;
  std::uint16_t queues = 1;
  RateLimiterConfig limit = {};
};

// A device on a disk in memory, behind a transport, with its driver started.
struct Bench {
  explicit Bench(const Options& options = {})
      : engine(options.engine ? *options.engine : GENERATE(Engine::kSync, Engine::kAsync)),
        disk(options.sectors * kSectorSize),
        device(make(options)),
        transport(*device, guest.memory(), [this] { ++irqs; }),
        registers(transport),
        features(registers.offered() & ~options.declined),
        driver(guest, options.queue_size, features) {
    for (std::size_t i = 0; i < std::min<std::size_t>(disk.bytes().size(), 1U << 22U); ++i) {
      disk.bytes()[i] = static_cast<std::byte>(i / 512 + i);
    }
    start(driver);
  }
  void start(const DriverQueue& queue) {
    REQUIRE(registers.negotiate(features));
    registers.set_queue(0, queue.layout());
    registers.start();
    REQUIRE(registers.status() == 15);
  }
  std::unique_ptr<Device> make(const Options& options) {
    disk.geometry.discards = options.discards;
    const Config config = {.id = "rootfs",
                           .path = "first",
                           .read_only = options.read_only,
                           .cache_type = options.cache_type,
                           .rate_limiter = options.limit};
    return Device::create(
               config, options.queues, *loop,
               [this](const std::string& path, const Opening& opening) { return open(path, opening); })
        .value();
  }
  base::Result<std::unique_ptr<Backend>> open(const std::string& path, const Opening& opening) {
    if (path == "first") return open(disk, ring.rings == 0 ? ring : spare_ring, opening);
    if (path == "second") return open(second_disk, second_ring, opening);
    return base::fail("{} is not there", path);
  }
  base::Result<std::unique_ptr<Backend>> open(FakeDisk& on, RingControl& control, const Opening& opening) {
    auto medium = std::make_unique<FakeMedium>(on);
    if (engine == Engine::kSync) return make_sync_backend(std::move(medium), opening.completions);
    if (engine == Engine::kUring) {
      return make_async_backend(std::move(medium), TRY(make_uring(on.fd(), false)), opening);
    }
    control.perform = [&on](const Call& call) { return on.perform(call); };
    return make_async_backend(std::move(medium), std::make_unique<FakeRing>(control), opening);
  }

  void kick() { registers.notify(0); }
  // Lets the loop have a round, on this thread.
  void pump() {
    loop->stop();
    REQUIRE(loop->run());
  }
  // Nothing where there is none, not even soon.
  std::optional<Used> next_used(DriverQueue& queue) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    for (int rounds = 0;; ++rounds) {
      if (auto used = queue.take_used()) return used;
      // Rings of a test's have done all that they will after some rounds.
      if (engine != Engine::kUring ? rounds > 20 : std::chrono::steady_clock::now() > deadline) return {};
      pump();
    }
  }
  std::optional<Used> next_used() { return next_used(driver); }
  ChainBuilder request(std::uint32_t type, std::uint64_t sector = 0) {
    ChainBuilder builder(guest);
    builder.readable_object(RequestHeader{type, 0U, sector});
    return builder;
  }
  // Sends a chain whose last writable byte is the status; the status, once it was checked that all writable
  // bytes count as written.
  std::uint8_t send(const ChainBuilder& chain) {
    return finish(chain.buffers(), driver.submit(chain.buffers()));
  }
  std::uint8_t send_indirect(const ChainBuilder& chain, std::size_t direct = 0) {
    return finish(chain.buffers(), driver.submit_indirect(chain.buffers(), direct));
  }
  std::uint8_t finish(const std::vector<test::Buffer>& buffers, std::uint16_t head) {
    kick();
    const auto used = next_used();
    REQUIRE(used);
    CHECK(used->id == head);
    std::uint32_t writable = 0;
    for (const auto& buffer : buffers) writable += buffer.writable ? buffer.length : 0;
    CHECK(used->length == writable);
    answer = driver.bytes_of(head);
    const auto status = static_cast<std::uint8_t>(answer.back());
    answer.pop_back();
    return status;
  }
  [[nodiscard]] std::vector<std::byte> on_disk(std::uint64_t sector, std::uint64_t sectors) const {
    const auto part = disk.bytes().subspan(sector * 512, sectors * 512);
    return {part.begin(), part.end()};
  }
  Metrics metrics() {
    const std::lock_guard lock(device->mutex());
    return device->metrics();
  }
  base::Status update(const std::string& path) {
    const std::lock_guard lock(device->mutex());
    return device->update(path);
  }
  std::uint64_t capacity() { return registers.read<std::uint64_t>(reg::kConfig); }

  const Engine engine;
  FakeGuest guest;
  FakeDisk disk;
  FakeDisk second_disk{10 * kSectorSize};
  RingControl ring;
  RingControl second_ring;
  RingControl spare_ring;  // of a second device on the first disk
  std::unique_ptr<base::EventLoop> loop = base::EventLoop::create().value();
  std::atomic<int> irqs = 0;
  std::unique_ptr<Device> device;
  MmioTransport transport;
  MmioDriver registers;
  std::uint64_t features;
  DriverQueue driver;
  std::vector<std::byte> answer;  // the writable bytes of the last request before its status
};

}  // namespace mayfly::test::block
