// The block device on the kernel's io_uring. Passes over where the kernel forbids it.
#include <liburing.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <random>
#include <thread>

#include "tests/support/temporary_folder.h"
#include "tests/unit/virtio/block_bench.h"

using namespace mayfly;
using namespace mayfly::test::block;
using test::ChainBuilder;
using test::DriverQueue;
namespace reg = test::reg;

namespace {

bool forbidden() {
  const test::FakeDisk disk(512);
  const auto ring = make_uring(disk.fd(), false);
  if (!ring) WARN("no io_uring here: " << ring.error().message);
  return !ring;
}

}  // namespace

TEST_CASE("block uring: each request, in any framing") {
  if (forbidden()) return;
  Bench b({.engine = Engine::kUring, .queue_size = 256});
  for (const std::uint32_t piece : {7U, 100U, 512U, 600U}) {
    ChainBuilder read = b.request(kTypeIn, 7).writable(1025).split(piece);
    CHECK(b.send_indirect(read) == kOk);
    CHECK(b.answer == b.on_disk(7, 2));
    const std::string data(1024, static_cast<char>('a' + piece % 26));
    CHECK(b.send_indirect(b.request(kTypeOut, 9).readable(data).writable(1).split(piece)) == kOk);
    CHECK(test::to_text(b.on_disk(9, 2)) == data);
  }
  CHECK(b.send(b.request(kTypeFlush).writable(1)) == kOk);
  CHECK(b.send(b.request(kTypeIn, 0).writable(1)) == kOk);
  const std::array<Segment, 2> segments = {Segment{9ULL, 1U, 0U}, Segment{20ULL, 4U, 0U}};
  const auto bytes = std::as_bytes(std::span(segments));
  CHECK(b.send(b.request(kTypeDiscard).readable(bytes).writable(1)) == kOk);
  CHECK(b.on_disk(9, 1) == std::vector<std::byte>(512));
  CHECK(b.on_disk(20, 4) == std::vector<std::byte>(2048));
  // A memfd cannot make zeroes that keep their space: they are written.
  b.disk.fill(std::byte{1});
  CHECK(b.send(b.request(kTypeWriteZeroes).readable(bytes).writable(1)) == kOk);
  CHECK(b.on_disk(9, 1) == std::vector<std::byte>(512));
  CHECK(b.on_disk(10, 1) == std::vector<std::byte>(512, std::byte{1}));
  CHECK(b.on_disk(20, 4) == std::vector<std::byte>(2048));
}

// A ring passes by system call filters, so it must not be good for anything else.
TEST_CASE("block uring: the ring does what a drive needs, and cannot be given more") {
  if (forbidden()) return;
  const test::FakeDisk disk(512);
  const auto ring = make_uring(disk.fd(), false).value();
  const auto register_with = [&](unsigned what, void* argument, unsigned count) {
    return ::syscall(__NR_io_uring_register, ring->event_fd(), what, argument, count) < 0 ? errno : 0;
  };
  std::array<char, 64> memory{};
  iovec buffer{memory.data(), memory.size()};
  CHECK(register_with(IORING_REGISTER_BUFFERS, &buffer, 1) == EACCES);
  CHECK(register_with(IORING_REGISTER_PERSONALITY, nullptr, 0) == EACCES);
  CHECK(register_with(IORING_UNREGISTER_FILES, nullptr, 0) == EACCES);
  io_uring_restriction more{};
  CHECK(register_with(IORING_REGISTER_RESTRICTIONS, &more, 1) != 0);
  // Calls on the ring are on registered files, of which there is one.
  int file = disk.fd();
  CHECK(register_with(IORING_REGISTER_FILES, &file, 1) == EACCES);
  CHECK(ring->moves());
  CHECK(ring->move_to(disk.fd(), false));
  CHECK_FALSE(ring->move_to(1'000'000, false));
}

// The event loop is not woken for what was taken where it was begun.
TEST_CASE("block uring: readable as long as something is finished and not taken") {
  if (forbidden()) return;
  const test::FakeDisk disk(2 * 512);
  const auto ring = make_uring(disk.fd(), false).value();
  const auto readable = [&](int milliseconds) {
    pollfd event{.fd = ring->event_fd(), .events = POLLIN, .revents = 0};
    return ::poll(&event, 1, milliseconds) == 1;
  };
  CHECK_FALSE(readable(0));
  std::array<std::byte, 512> data{};
  const iovec piece{data.data(), data.size()};
  const Call read{.kind = Call::Kind::kRead, .pieces = {&piece, 1}};
  for (const std::uint32_t token : {0U, 1U}) ring->put(read, token);
  CHECK(ring->submit());
  for (int left = 2; left > 0; --left) {
    REQUIRE(readable(60'000));
    const auto finished = ring->take();
    REQUIRE(finished);
    CHECK(finished->result == 512);
  }
  CHECK_FALSE(ring->take());
  CHECK_FALSE(readable(0));
}

TEST_CASE("block uring: a file that shrinks, a read-only one") {
  if (forbidden()) return;
  Bench b({.engine = Engine::kUring});
  // The mapping stays; its end is not looked at.
  REQUIRE(::ftruncate(b.disk.fd(), 6 * 512) == 0);
  CHECK(b.send(b.request(kTypeIn, 5).writable(1024).writable(1)) == kIoError);
  CHECK(b.answer == std::vector<std::byte>(1024));
  CHECK(b.metrics().short_reads == 1);
}

TEST_CASE("block uring: many requests at once, each with its own data") {
  if (forbidden()) return;
  constexpr std::uint64_t kSectors = 4096;
  Bench b({.engine = Engine::kUring, .queue_size = 256, .sectors = kSectors});
  const auto area = b.guest.allocate(64 * 4096, 4096);
  const auto status = b.guest.allocate(64);
  std::mt19937 random(1);
  std::vector<std::byte> wanted(kSectors * 512);
  std::ranges::copy(b.disk.bytes(), wanted.begin());
  for (int round = 0; round < 30; ++round) {
    // Sixty-four writes of eight sectors at places that do not overlap, then the same read back.
    std::vector<std::uint64_t> places(kSectors / 8);
    for (std::size_t i = 0; i < places.size(); ++i) places[i] = i * 8;
    std::ranges::shuffle(places, random);
    for (const std::uint32_t type : {kTypeOut, kTypeIn}) {
      for (std::uint64_t i = 0; i < 64; ++i) {
        const auto buffer = area.unchecked_add(i * 4096);
        b.guest.fill(buffer, 4096, static_cast<std::byte>(type == kTypeOut ? round * 64 + int(i) : 0xee));
        ChainBuilder chain = b.request(type, places[i]);
        chain.buffer(buffer, 4096, type == kTypeIn).buffer(status.unchecked_add(i), 1, true);
        chain.submit(b.driver);
        if (i % 9 == 0) b.kick();
      }
      b.kick();
      for (int i = 0; i < 64; ++i) REQUIRE(b.next_used());
      for (std::uint64_t i = 0; i < 64; ++i) {
        REQUIRE(b.guest.load<std::uint8_t>(status.unchecked_add(i)) == kOk);
        const std::vector<std::byte> bytes(4096, static_cast<std::byte>(round * 64 + int(i)));
        if (type == kTypeIn) REQUIRE(b.guest.read(area.unchecked_add(i * 4096), 4096) == bytes);
        if (type == kTypeOut) std::ranges::copy(bytes, wanted.begin() + std::ptrdiff_t(places[i] * 512));
      }
    }
  }
  CHECK(std::ranges::equal(b.disk.bytes(), wanted));
  CHECK(b.metrics().writes == 30 * 64);
}

TEST_CASE("block uring: reset, quiesce and update with requests on their way") {
  if (forbidden()) return;
  const test::TemporaryFolder folder;
  constexpr std::uint64_t kSize = 64U << 20U;
  const std::string path = folder.file("disk", "");
  REQUIRE(::truncate(path.c_str(), kSize) == 0);
  test::FakeGuest guest;
  const auto loop = base::EventLoop::create().value();
  const auto device =
      Device::create({.id = "d", .path = path, .io_engine = IoEngine::kAsync}, 1, *loop).value();
  MmioTransport transport(*device, guest.memory(), [] {});
  test::MmioDriver registers(transport);
  DriverQueue queue(guest, 256, registers.offered());
  const auto area = guest.allocate(16U << 20U, 4096);
  for (int round = 0; round < 9; ++round) {
    guest.fill(base::GuestAddress(0), 1U << 20U, std::byte{0});
    DriverQueue driver(guest, queue.layout(), registers.offered());
    REQUIRE(registers.negotiate(registers.offered()));
    registers.set_queue(0, driver.layout());
    registers.start();
    const auto header = guest.allocate(16);
    guest.store(header, RequestHeader{kTypeIn, 0U, std::uint64_t{0}});
    // Zeros come, into bytes that are none.
    constexpr std::uint32_t kPart = 256U << 10U;
    for (std::uint64_t i = 0; i < 60; ++i) {
      guest.fill(area.unchecked_add(i * kPart), kPart, std::byte{1});
      const std::array<test::Buffer, 3> buffers = {
          {{header, 16, false}, {area.unchecked_add(i * kPart), kPart, true}, {header, 1, true}}};
      driver.submit(buffers);
    }
    registers.notify(0);
    if (round % 3 == 0) {
      registers.write(reg::kStatus, 0U);
      guest.fill(area, 60ULL * kPart, std::byte{2});
      for (int i = 0; i < 20; ++i) {
        loop->stop();
        REQUIRE(loop->run());
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      const auto bytes = guest.memory().slice(area, 60ULL * kPart).value();
      // Each is as the one before it: one call, where a loop takes a debug build half a minute.
      CHECK(bytes[0] == std::byte{2});
      CHECK(std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
      continue;
    }
    {
      const std::lock_guard lock(device->mutex());
      if (round % 3 == 1) {
        device->quiesce();
      } else {
        REQUIRE(device->update(path));
      }
    }
    // Without the loop.
    int answered = 0;
    while (driver.take_used()) ++answered;
    CHECK(answered == 60);
    registers.write(reg::kStatus, 0U);
  }
}

TEST_CASE("block uring: a reset on a thread that is not the loop's, while the loop works") {
  if (forbidden()) return;
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(4U << 20U, 'd'));
  test::FakeGuest guest;
  const auto loop = base::EventLoop::create().value();
  const auto device =
      Device::create({.id = "d", .path = path, .io_engine = IoEngine::kAsync}, 1, *loop).value();
  MmioTransport transport(*device, guest.memory(), [] {});
  test::MmioDriver registers(transport);
  std::thread runner([&] { REQUIRE(loop->run()); });
  for (int round = 0; round < 200; ++round) {
    REQUIRE(registers.negotiate(registers.offered()));
    DriverQueue driver(guest, 128, registers.offered());
    registers.set_queue(0, driver.layout());
    registers.start();
    for (std::uint64_t i = 0; i < 32; ++i) {
      ChainBuilder(guest).readable_object(RequestHeader{kTypeIn, 0U, i * 64}).writable(8193).submit(driver);
    }
    // As the doorbell: begun by the loop's thread.
    loop->post([&] { transport.queue_notified(0); });
    if (round % 2 == 0) {
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (!driver.take_used()) {
        REQUIRE(std::chrono::steady_clock::now() < deadline);
        std::this_thread::yield();
      }
    }
    registers.write(reg::kStatus, 0U);
    const auto used = driver.used_index();
    CHECK(driver.used_index() == used);
  }
  loop->stop();
  runner.join();
}

TEST_CASE("block: which engine a drive gets") {
  const test::TemporaryFolder folder;
  const auto loop = base::EventLoop::create().value();
  const std::string path = folder.file("disk", std::string(4096, 'd'));
  const auto make = [&](IoEngine engine) {
    return Device::create({.id = "data", .path = path, .io_engine = engine}, 1, *loop);
  };
  CHECK(make(IoEngine::kBest));
  CHECK(make(IoEngine::kSync));
  if (forbidden()) {
    const auto device = make(IoEngine::kAsync);
    REQUIRE_FALSE(device);
    CHECK_THAT(device.error().message, Catch::Contains("drive data") && Catch::Contains("io_engine Async"));
    return;
  }
  CHECK(make(IoEngine::kAsync));
  // Without file descriptors there is no ring, and no eventfd; one is left for the disk itself.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  const base::UniqueFd probe(::dup(0));
  rlimit few = before;
  few.rlim_cur = static_cast<rlim_t>(probe.get()) + 3;  // a timer, the disk, and one more
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  const std::string best = make(IoEngine::kBest) ? "" : "refused";
  const auto insisting = make(IoEngine::kAsync);
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
  CHECK(best.empty());
  REQUIRE_FALSE(insisting);
  CHECK_THAT(insisting.error().message, Catch::Contains("drive data") && Catch::Contains("io_engine Async") &&
                                            Catch::Contains("Too many open files"));
}
