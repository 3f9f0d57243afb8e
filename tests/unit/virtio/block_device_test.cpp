// The block device, driven as a guest drives it.
#include <catch2/catch.hpp>

#include <unistd.h>

#include <cerrno>
#include <thread>

#include "tests/support/temporary_folder.h"
#include "tests/unit/virtio/block_bench.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::block;
using namespace mayfly::test::block;
using test::ChainBuilder;
using test::DriverQueue;
using test::FakeDisk;
using test::FakeGuest;
using test::MmioDriver;
namespace reg = test::reg;

// ---- What it offers ----

TEST_CASE("block: features follow the configuration") {
  Bench unsafe({.cache_type = CacheType::kUnsafe});
  CHECK((unsafe.registers.offered() & kFeatureFlush) == 0);
  CHECK((unsafe.registers.offered() & kFeatureReadOnly) == 0);
  Bench writeback({.read_only = true});
  CHECK((writeback.registers.offered() & kFeatureFlush) != 0);
  CHECK((writeback.registers.offered() & kFeatureReadOnly) != 0);
  constexpr std::uint64_t kAlways = kFeatureSizeMax | kFeatureSegMax | kFeatureBlkSize | kFeatureTopology |
                                    kFeatureIndirectDesc | kFeatureEventIdx;
  CHECK((writeback.registers.offered() & kAlways) == kAlways);
}

TEST_CASE("block: configuration space") {
  Bench b;
  CHECK(b.registers.read(reg::kDeviceId) == 2);
  CHECK(b.capacity() == 64);
  CHECK(b.registers.read(reg::kConfig) == 64);
  CHECK(b.registers.read(reg::kConfig + 4) == 0);
  CHECK(b.registers.read(reg::kConfig + 8) == 1U << 20U);  // size_max
  CHECK(b.registers.read(reg::kConfig + 12) == 254);       // seg_max
  CHECK(b.registers.read(reg::kConfig + 20) == 512);       // blk_size
  CHECK(b.registers.read<std::uint8_t>(reg::kConfig + 12) == 254);
  CHECK(b.registers.read<std::uint8_t>(reg::kConfig + 24) == 3);   // physical_block_exp
  CHECK(b.registers.read<std::uint8_t>(reg::kConfig + 25) == 0);   // alignment_offset
  CHECK(b.registers.read<std::uint16_t>(reg::kConfig + 26) == 8);  // min_io_size
  CHECK(b.registers.read(reg::kConfig + 28) == 128);               // opt_io_size
  CHECK(b.registers.read(reg::kConfig + 36) == kDiscardLimits.sectors);
  CHECK(b.registers.read(reg::kConfig + 40) == kDiscardLimits.segments);
  CHECK(b.registers.read(reg::kConfig + 44) == 8);  // discard_sector_alignment
  CHECK(b.registers.read(reg::kConfig + 48) == kWriteZeroesLimits.sectors);
  CHECK(b.registers.read(reg::kConfig + 52) == kWriteZeroesLimits.segments);
  CHECK(b.registers.read<std::uint8_t>(reg::kConfig + 56) == 1);   // write_zeroes_may_unmap
  CHECK(b.registers.read<std::uint64_t>(reg::kConfig + 68) == 0);  // half past the end
  CHECK(b.registers.read(reg::kConfig + 72) == 0);
  CHECK(b.registers.read(0xffc) == 0);
  b.registers.write(reg::kConfig, 1U);
  CHECK(b.capacity() == 64);
}

// ---- Requests ----

TEST_CASE("block: a read") {
  Bench b;
  CHECK(b.send(b.request(kTypeIn, 5).writable(1024).writable(1)) == kOk);
  CHECK(b.answer == b.on_disk(5, 2));
  CHECK(b.irqs == 1);
  CHECK(b.metrics().reads == 1);
  CHECK(b.metrics().read_bytes == 1024);
}

TEST_CASE("block: a write") {
  Bench b;
  const std::string data(1536, 'w');
  CHECK(b.send(b.request(kTypeOut, 61).readable(data).writable(1)) == kOk);
  CHECK(test::to_text(b.on_disk(61, 3)) == data);
  CHECK(b.metrics().writes == 1);
  CHECK(b.metrics().written_bytes == 1536);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 0);
}

TEST_CASE("block: a flush") {
  Bench b;
  CHECK(b.send(b.request(kTypeFlush).writable(1)) == kOk);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 1);
  CHECK(b.metrics().flushes == 1);
}

TEST_CASE("block: the id") {
  Bench b;
  CHECK(b.send(b.request(kTypeGetId).writable(20).writable(1)) == kOk);
  CHECK(test::to_text(b.answer) == std::string("rootfs") + std::string(14, '\0'));
  // In more room than it needs, and in too little.
  CHECK(b.send(b.request(kTypeGetId).writable(32).writable(1)) == kOk);
  CHECK(test::to_text(b.answer) == std::string("rootfs") + std::string(26, '\0'));
  CHECK(b.send(b.request(kTypeGetId).writable(19).writable(1)) == kIoError);
}

TEST_CASE("block: transfers of nothing succeed") {
  Bench b;
  CHECK(b.send(b.request(kTypeIn, 64).writable(1)) == kOk);
  CHECK(b.send(b.request(kTypeOut, 0).writable(1)) == kOk);
}

TEST_CASE("block: the status may be the end of a larger buffer") {
  Bench b;
  CHECK(b.send(b.request(kTypeIn, 2).writable(513)) == kOk);
  CHECK(b.answer == b.on_disk(2, 1));
}

TEST_CASE("block: any framing, direct and indirect") {
  for (const std::uint32_t piece : {1U, 3U, 5U, 15U, 16U, 17U, 100U, 512U, 600U}) {
    Bench b({.queue_size = 256});
    // With pieces of one byte, a whole sector would not fit a queue of 256: then there is no data.
    const std::uint32_t sectors = piece <= 3 ? 0 : 1;
    ChainBuilder read = b.request(kTypeIn, 7).writable(512 * sectors + 1).split(piece);
    CHECK(b.send(read) == kOk);
    CHECK(b.answer == b.on_disk(7, sectors));
    CHECK(b.send_indirect(read) == kOk);
    CHECK(b.answer == b.on_disk(7, sectors));
    if (read.buffers().size() > 2) CHECK(b.send_indirect(read, 2) == kOk);

    const std::string data(512 * sectors, 'f');
    ChainBuilder write = b.request(kTypeOut, 9).readable(data).writable(1).split(piece);
    CHECK(b.send(write) == kOk);
    CHECK(test::to_text(b.on_disk(9, sectors)) == data);
    b.disk.fill(std::byte{0});
    CHECK(b.send_indirect(write) == kOk);
    CHECK(test::to_text(b.on_disk(9, sectors)) == data);
  }
}

TEST_CASE("block: header and data in one buffer") {
  Bench b;
  const RequestHeader header{kTypeOut, 0U, std::uint64_t{3}};
  auto bytes = test::to_bytes(std::string(512, 'j'));
  const auto head = std::as_bytes(std::span(&header, 1));
  bytes.insert(bytes.begin(), head.begin(), head.end());
  ChainBuilder chain(b.guest);
  chain.readable(bytes).writable(1);
  CHECK(b.send(chain) == kOk);
  CHECK(test::to_text(b.on_disk(3, 1)) == std::string(512, 'j'));
}

TEST_CASE("block: as many segments as seg_max says, in one indirect request") {
  Bench b({.queue_size = 256});
  ChainBuilder chain = b.request(kTypeIn, 0);
  for (int i = 0; i < 254; ++i) chain.writable(i < 64 ? 512 : 0);
  chain.writable(1);
  CHECK(b.send_indirect(chain) == kOk);
  CHECK(b.answer == b.on_disk(0, 64));
}

// ---- Malformed requests: an error status, and the device lives on ----

TEST_CASE("block: bad requests") {
  Bench b;
  SECTION("sector out of range") {
    CHECK(b.send(b.request(kTypeIn, 64).writable(512).writable(1)) == kIoError);
    CHECK(b.send(b.request(kTypeOut, 63).readable(std::string(1024, 'x')).writable(1)) == kIoError);
    CHECK(b.send(b.request(kTypeIn, 1ULL << 55U).writable(512).writable(1)) == kIoError);
    CHECK(b.send(b.request(kTypeIn, ~0ULL).writable(512).writable(1)) == kIoError);
    CHECK(b.metrics().out_of_range == 4);
  }
  SECTION("not whole sectors") {
    CHECK(b.send(b.request(kTypeIn, 0).writable(511).writable(1)) == kIoError);
    CHECK(b.send(b.request(kTypeOut, 0).readable("x").writable(1)) == kIoError);
    CHECK(b.metrics().malformed_requests == 2);
  }
  SECTION("header too short") {
    ChainBuilder chain(b.guest);
    chain.readable("fifteen bytes..").writable(1);
    CHECK(b.send(chain) == kIoError);
    ChainBuilder none(b.guest);
    none.writable(1);
    CHECK(b.send(none) == kIoError);
    CHECK(b.metrics().malformed_requests == 2);
  }
  SECTION("nowhere to put a status") {
    const auto head = b.request(kTypeOut, 0).readable(std::string(512, 'x')).submit(b.driver);
    b.kick();
    const auto used = b.next_used();
    REQUIRE(used);
    CHECK(used->id == head);
    CHECK(used->length == 0);
    CHECK(b.metrics().malformed_requests == 1);
    CHECK(b.on_disk(0, 1) != test::to_bytes(std::string(512, 'x')));
  }
  SECTION("unknown type") {
    CHECK(b.send(b.request(12).writable(1)) == kUnsupported);
    CHECK(b.send(b.request(0xffffffff).readable("data").writable(512).writable(1)) == kUnsupported);
    CHECK(b.metrics().unsupported_requests == 2);
  }
  CHECK(b.registers.status() == 15);
  CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(1)) == kOk);
  CHECK(b.answer == b.on_disk(5, 1));
}

TEST_CASE("block: what is not answered with data is zeroed before the status") {
  Bench b;
  CHECK(b.send(b.request(kTypeIn, 64).writable(1024).writable(1)) == kIoError);
  CHECK(b.answer == std::vector<std::byte>(1024));
  CHECK(b.send(b.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(100).writable(1)) == kOk);
  CHECK(b.answer == std::vector<std::byte>(100));
}

TEST_CASE("block: a read-only disk") {
  Bench b({.read_only = true});
  const auto before = b.on_disk(0, 64);
  CHECK(b.send(b.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(1)) == kIoError);
  CHECK(b.on_disk(0, 64) == before);
  CHECK(b.metrics().read_only_writes == 1);
  CHECK(b.send(b.request(kTypeIn, 0).writable(512).writable(1)) == kOk);
  // Also where the driver did not accept the feature bit.
  Bench deaf({.read_only = true, .declined = kFeatureReadOnly});
  CHECK(deaf.send(deaf.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(1)) == kIoError);
}

TEST_CASE("block: flush where it was not offered") {
  Bench b({.cache_type = CacheType::kUnsafe});
  CHECK(b.send(b.request(kTypeFlush).writable(1)) == kUnsupported);
  CHECK(b.send(b.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(1)) == kOk);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 0);
}

TEST_CASE("block: where FLUSH was declined each write is made stable") {
  Bench b({.declined = kFeatureFlush});
  CHECK(b.send(b.request(kTypeFlush).writable(1)) == kUnsupported);
  CHECK(b.send(b.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(1)) == kOk);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 1);
  b.disk.errors[FakeDisk::Kind::kSync] = EIO;
  CHECK(b.send(b.request(kTypeOut, 0).readable(std::string(512, 'x')).writable(1)) == kIoError);
  CHECK(b.metrics().write_errors == 1);
}

// ---- A disk that fails ----

TEST_CASE("block: errors of the disk are errors of the request, counted by kind") {
  Bench b;
  SECTION("read") {
    b.disk.errors[FakeDisk::Kind::kRead] = EIO;
    CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(512).writable(1)) == kIoError);
    CHECK(b.answer == std::vector<std::byte>(1024));  // nothing half-read is left
    CHECK(b.metrics().read_errors == 1);
    CHECK(b.metrics().short_reads == 0);
    CHECK(b.metrics().reads == 0);
    b.disk.errors.clear();
  }
  SECTION("the file shrank") {
    b.disk.errors[FakeDisk::Kind::kRead] = 0;
    CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(1)) == kIoError);
    CHECK(b.metrics().read_errors == 1);
    CHECK(b.metrics().short_reads == 1);
    b.disk.errors.clear();
  }
  SECTION("write") {
    b.disk.errors[FakeDisk::Kind::kWrite] = EIO;
    CHECK(b.send(b.request(kTypeOut, 5).readable(std::string(512, 'x')).writable(1)) == kIoError);
    CHECK(b.metrics().write_errors == 1);
    CHECK(b.metrics().no_space == 0);
  }
  SECTION("no space") {
    b.disk.errors[FakeDisk::Kind::kWrite] = ENOSPC;
    CHECK(b.send(b.request(kTypeOut, 5).readable(std::string(512, 'x')).writable(1)) == kIoError);
    CHECK(b.metrics().write_errors == 1);
    CHECK(b.metrics().no_space == 1);
  }
  SECTION("flush") {
    b.disk.errors[FakeDisk::Kind::kSync] = EIO;
    CHECK(b.send(b.request(kTypeFlush).writable(1)) == kIoError);
    CHECK(b.metrics().flush_errors == 1);
  }
  CHECK(b.registers.status() == 15);
  CHECK(b.send(b.request(kTypeIn, 5).writable(512).writable(1)) == kOk);
}

TEST_CASE("block: a real file that shrinks under the device") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(4096, 'd'));
  FakeGuest guest;
  const auto loop = base::EventLoop::create().value();
  const IoEngine engine = GENERATE(IoEngine::kSync, IoEngine::kAsync);
  const auto device = Device::create({.id = "d", .path = path, .io_engine = engine}, 1, *loop).value();
  MmioTransport transport(*device, guest.memory(), [] {});
  MmioDriver registers(transport);
  REQUIRE(registers.negotiate(registers.offered()));
  DriverQueue driver(guest, 16, registers.offered());
  registers.set_queue(0, driver.layout());
  registers.start();
  const auto read = [&] {
    const auto head = ChainBuilder(guest)
                          .readable_object(RequestHeader{kTypeIn, 0U, std::uint64_t{6}})
                          .writable(513)
                          .submit(driver);
    registers.notify(0);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!driver.take_used()) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      loop->stop();
      REQUIRE(loop->run());
    }
    return static_cast<std::uint8_t>(driver.bytes_of(head).back());
  };
  CHECK(read() == kOk);
  REQUIRE(::truncate(path.c_str(), 3072) == 0);
  CHECK(read() == kIoError);
  {
    const std::lock_guard lock(device->mutex());
    CHECK(device->metrics().short_reads == 1);
    REQUIRE(device->update(""));
  }
  CHECK(registers.read(reg::kConfig) == 6);
  {
    const std::lock_guard lock(device->mutex());
    CHECK(device->metrics().updates == 1);
    REQUIRE(device->update(folder.file("other", std::string(8192, 'e'))));
    CHECK_FALSE(device->update(folder.path("missing")));
    CHECK_FALSE(device->update(folder.file("odd", "odd")));
  }
  CHECK(registers.read(reg::kConfig) == 16);
  CHECK(read() == kOk);
}

TEST_CASE("block: create names the drive and the path") {
  const test::TemporaryFolder folder;
  const auto loop = base::EventLoop::create().value();
  const std::string path = folder.path("missing.ext4");
  const auto device = Device::create({.id = "scratch", .path = path}, 1, *loop);
  REQUIRE_FALSE(device);
  CHECK_THAT(device.error().message, Catch::Contains("drive scratch") && Catch::Contains(path));
}

// ---- Live changes ----

TEST_CASE("block: a new size is told with a configuration interrupt") {
  Bench b;
  const auto generation = b.registers.read(reg::kConfigGeneration);
  b.disk.resize(128 * 512);
  REQUIRE(b.update(""));
  CHECK(b.capacity() == 128);
  CHECK(b.irqs == 1);
  CHECK(b.registers.read(reg::kInterruptStatus) == kInterruptConfig);
  CHECK(b.registers.read(reg::kConfigGeneration) == generation + 1);
  CHECK(b.send(b.request(kTypeIn, 127).writable(512).writable(1)) == kOk);
}

TEST_CASE("block: another file takes the place of the first") {
  Bench b;
  b.second_disk.fill(std::byte{'2'});
  REQUIRE(b.update("second"));
  CHECK(b.capacity() == 10);
  CHECK(b.send(b.request(kTypeIn, 9).writable(512).writable(1)) == kOk);
  CHECK(test::to_text(b.answer) == std::string(512, '2'));
  CHECK(b.send(b.request(kTypeIn, 10).writable(512).writable(1)) == kIoError);
}

TEST_CASE("block: an update that fails changes nothing") {
  Bench b;
  SECTION("no such file") {
    CHECK_FALSE(b.update("third"));
  }
  SECTION("the size cannot be told") {
    b.second_disk.size_error = EIO;
    CHECK_FALSE(b.update("second"));
  }
  CHECK(b.capacity() == 64);
  CHECK(b.irqs == 0);
  CHECK(b.send(b.request(kTypeIn, 63).writable(512).writable(1)) == kOk);
  CHECK(b.answer == b.on_disk(63, 1));
}

TEST_CASE("block: an update before the driver is up moves the generation, without an interrupt") {
  Bench b;
  b.registers.write(reg::kStatus, 0U);
  const auto generation = b.registers.read(reg::kConfigGeneration);
  b.disk.resize(32 * 512);
  REQUIRE(b.update(""));
  CHECK(b.registers.read(reg::kConfigGeneration) == generation + 1);
  CHECK(b.capacity() == 32);
  CHECK(b.irqs == 0);
}

// ---- The queue ----

TEST_CASE("block: a batch is announced once") {
  Bench b({.declined = kFeatureEventIdx});
  for (int i = 0; i < 10; ++i) b.request(kTypeIn, 1).writable(513).submit(b.driver);
  b.kick();
  CHECK(b.irqs == 1);
  int returned = 0;
  while (b.next_used()) ++returned;
  CHECK(returned == 10);
}

TEST_CASE("block: a broken queue stops the device until reset") {
  Bench b;
  const auto good = b.request(kTypeIn, 1).writable(513).submit(b.driver);
  b.driver.make_available(127);  // a descriptor that was never written: of no length, but
  b.driver.write_descriptor(127, {0ULL, 1U, test::kNext, std::uint16_t{127}});
  b.kick();
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
  CHECK(b.registers.read(reg::kInterruptStatus) == (kInterruptUsed | kInterruptConfig));
  CHECK(b.metrics().malformed_queues == 1);
  CHECK(b.next_used()->id == good);
  b.driver.make_available(good);
  b.kick();
  CHECK_FALSE(b.driver.take_used());

  DriverQueue fresh(b.guest, 64, b.features);
  b.start(fresh);
  b.request(kTypeIn, 1).writable(513).submit(fresh);
  b.kick();
  CHECK(b.next_used(fresh));
}

TEST_CASE("block: a device whose queue was not set up does not start") {
  Bench b;
  REQUIRE(b.registers.negotiate(b.features));
  b.registers.start();
  CHECK((b.registers.status() & kStatusDeviceNeedsReset) != 0);
}

TEST_CASE("block: one notification serves a bounded number of requests, the loop does the rest") {
  Bench b({.declined = kFeatureEventIdx, .queue_size = 256});
  for (unsigned i = 0; i < 100; ++i) b.request(kTypeFlush).writable(1).submit(b.driver);
  b.kick();
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == Device::kBatch);
  // The rest comes from the loop, with no further notification.
  std::thread runner([&] { REQUIRE(b.loop->run()); });
  int returned = 0;
  while (returned < 100) {
    if (b.driver.take_used()) {
      ++returned;
    } else {
      std::this_thread::yield();
    }
  }
  b.loop->stop();
  runner.join();
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == 100);
  CHECK(b.irqs >= 2);
}

TEST_CASE("block: reset between batches drops what is left") {
  Bench b({.declined = kFeatureEventIdx, .queue_size = 256});
  for (unsigned i = 0; i < 100; ++i) b.request(kTypeFlush).writable(1).submit(b.driver);
  b.kick();
  b.registers.write(reg::kStatus, 0U);
  // The loop gets a whole round to do wrong in.
  bool done = false;
  b.loop->post([&] {
    b.loop->post([&] {
      done = true;
      b.loop->stop();
    });
  });
  REQUIRE(b.loop->run());
  CHECK(done);
  CHECK(b.disk.calls[FakeDisk::Kind::kSync] == Device::kBatch);
}

TEST_CASE("block: a saved device goes on where it was") {
  Bench b;
  CHECK(b.send(b.request(kTypeIn, 1).writable(512).writable(1)) == kOk);
  const auto registers = b.transport.save();
  State state;
  {
    const std::lock_guard lock(b.device->mutex());
    state = b.device->save();
  }
  CHECK(state.queues.at(0).next_available == 1);
  CHECK(state.queues.at(0).next_used == 1);

  const auto other = b.make({});
  std::atomic<int> irqs = 0;
  MmioTransport transport(*other, b.guest.memory(), [&] { ++irqs; });
  REQUIRE(transport.restore(registers, state.queues));
  const auto head = b.request(kTypeGetId).writable(21).submit(b.driver);
  transport.queue_notified(0);
  CHECK(b.next_used()->id == head);
}

// ThreadSanitizer would report the race that this test is about.
#ifndef __SANITIZE_THREAD__
TEST_CASE("block: memory that changes while it is read does no harm") {
  // The guest's other CPU rewrites header and descriptors while requests are served. Whatever the device
  // sees, it must stay within the disk; the sanitizers watch.
  Bench b;
  const auto header_at = b.guest.allocate(16);
  std::atomic<bool> done = false;
  std::thread other_cpu([&] {
    const auto place = b.guest.memory().slice(header_at, 16).value();
    std::uint8_t value = 0;
    while (!done) {
      for (std::byte& byte : place)
        std::atomic_ref(byte).store(std::byte{value++}, std::memory_order_relaxed);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    const std::array<test::Buffer, 2> buffers = {
        {{header_at, 16, false}, {base::GuestAddress(0x8000), 513, true}}};
    const auto head = b.driver.submit(buffers);
    b.kick();
    const auto used = b.next_used();
    REQUIRE(used);
    CHECK(used->id == head);
  }
  done = true;
  other_cpu.join();
  CHECK(b.registers.status() == 15);
}
#endif
