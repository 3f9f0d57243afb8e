// Drives on overlays, from their driver's side.
#include <catch2/catch.hpp>

#include <thread>

#include "base/file.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/virtio/block_bench.h"
#include "virtio/block/overlay/overlay_file.h"

using namespace mayfly;
using namespace mayfly::test::block;
using Catch::Contains;

namespace {

struct Drive {
  explicit Drive(const Config& config)
      : device(Device::create(config, 1, *loop).value()),
        transport(*device, guest.memory(), [] {}),
        registers(transport),
        driver(guest, 64, registers.offered()) {
    REQUIRE(registers.negotiate(registers.offered()));
    registers.set_queue(0, driver.layout());
    registers.start();
    REQUIRE(registers.status() == 15);
  }
  std::uint8_t send(const test::ChainBuilder& chain) {
    const std::uint16_t head = driver.submit(chain.buffers());
    registers.notify(0);
    const auto used = driver.take_used();
    REQUIRE(used);
    const auto bytes = driver.bytes_of(head);
    answer = test::to_text(bytes);
    const auto status = static_cast<std::uint8_t>(bytes.back());
    answer.pop_back();
    return status;
  }
  std::uint8_t write(std::uint64_t sector, const std::string& data) {
    return send(request(kTypeOut, sector).readable(data).writable(1));
  }
  std::string read(std::uint64_t sector, std::uint32_t length) {
    REQUIRE(send(request(kTypeIn, sector).writable(length).writable(1)) == kOk);
    return answer;
  }
  test::ChainBuilder request(std::uint32_t type, std::uint64_t sector = 0) {
    test::ChainBuilder builder(guest);
    builder.readable_object(RequestHeader{type, 0U, sector});
    return builder;
  }
  base::Status update(const std::string& path) {
    const std::lock_guard lock(device->mutex());
    return device->update(path);
  }

  test::FakeGuest guest;
  std::unique_ptr<base::EventLoop> loop = base::EventLoop::create().value();
  std::unique_ptr<Device> device;
  MmioTransport transport;
  test::MmioDriver registers;
  test::DriverQueue driver;
  std::string answer;
};

struct Place {
  test::TemporaryFolder folder;
  Config config{.id = "root",
                .path = folder.file("base", std::string(65536, 'b')),
                .overlay_path = folder.path("overlay"),
                .cache_type = CacheType::kWriteback};
  [[nodiscard]] std::uint64_t written_clusters() const {
    return overlay::inspect_overlay(config.overlay_path, "").value().clusters.data;
  }
  [[nodiscard]] std::string error() const {
    const auto loop = base::EventLoop::create().value();
    auto device = Device::create(config, 1, *loop);
    REQUIRE_FALSE(device);
    return device.error().message;
  }
};

}  // namespace

TEST_CASE("overlay drive: what is written stays in the overlay, from one machine to the next") {
  const Place place;
  {
    Drive drive(place.config);
    CHECK(drive.read(0, 1024) == std::string(1024, 'b'));
    CHECK(drive.write(1, std::string(512, 'w')) == kOk);
    CHECK(drive.write(64, std::string(4096, 'x')) == kOk);
    CHECK(drive.send(drive.request(kTypeFlush).writable(1)) == kOk);
    CHECK(place.written_clusters() == 2);
  }
  Drive drive(place.config);
  CHECK(drive.read(0, 1536) == std::string(512, 'b') + std::string(512, 'w') + std::string(512, 'b'));
  CHECK(drive.read(64, 4096) == std::string(4096, 'x'));
  CHECK(base::read_file(place.config.path).value() == std::string(65536, 'b'));
}

TEST_CASE("overlay drive: discards and zeroes") {
  const Place place;
  Drive drive(place.config);
  CHECK((drive.registers.offered() & (kFeatureDiscard | kFeatureWriteZeroes)) != 0);
  const auto send = [&](std::uint32_t type, const Segment& segment) {
    return drive.send(drive.request(type).readable_object(segment).writable(1));
  };
  CHECK(send(kTypeDiscard, {0ULL, 8U, 0U}) == kOk);
  CHECK(send(kTypeWriteZeroes, {9ULL, 1U, 1U}) == kOk);
  CHECK(drive.read(0, 4096 + 1536) ==
        std::string(4096, '\0') + std::string(512, 'b') + std::string(512, '\0') + std::string(512, 'b'));
}

TEST_CASE("overlay drive: a driver that never flushes loses a second's work at most") {
  Place place;
  place.config.cache_type = CacheType::kUnsafe;
  Drive drive(place.config);
  CHECK(drive.write(1, std::string(512, 'w')) == kOk);
  CHECK(place.written_clusters() == 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (place.written_clusters() == 0 && std::chrono::steady_clock::now() < deadline) {
    drive.loop->stop();
    REQUIRE(drive.loop->run());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(place.written_clusters() == 1);
  // And again after that.
  CHECK(drive.write(9, std::string(512, 'w')) == kOk);
  while (place.written_clusters() == 1 && std::chrono::steady_clock::now() < deadline) {
    drive.loop->stop();
    REQUIRE(drive.loop->run());
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(place.written_clusters() == 2);
}

TEST_CASE("overlay drive: a machine that pauses has it all in the file") {
  const Place place;
  Drive drive(place.config);
  CHECK(drive.write(1, std::string(512, 'w')) == kOk);
  {
    const std::lock_guard lock(drive.device->mutex());
    drive.device->quiesce();
  }
  CHECK(place.written_clusters() == 1);
}

TEST_CASE("overlay drive: another backing file is refused, another look at the same one is not") {
  const Place place;
  Drive drive(place.config);
  const auto updated = drive.update(place.folder.file("other", std::string(65536, 'o')));
  REQUIRE_FALSE(updated);
  CHECK_THAT(updated.error().message, Contains(place.config.overlay_path) && Contains("flatten"));
  CHECK(drive.update(""));
  CHECK(drive.read(0, 512) == std::string(512, 'b'));
}

TEST_CASE("overlay drive: read-only, asynchronous, or in use, it is refused") {
  Place place;
  place.config.read_only = true;
  CHECK_THAT(place.error(), Contains("drive root") && Contains("is_read_only"));
  place.config.read_only = false;
  place.config.io_engine = IoEngine::kAsync;
  CHECK_THAT(place.error(), Contains("io_engine Async"));
  place.config.io_engine = IoEngine::kSync;
  const Drive drive(place.config);
  CHECK_THAT(place.error(), Contains("is in use by another drive"));
}
