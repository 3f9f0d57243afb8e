#include "vmm/bus.h"

#include <array>
#include <catch2/catch.hpp>
#include <vector>

using namespace mayfly::vmm;

namespace {

// Remembers what it was asked, answers with the offset.
class Recorder final : public BusDevice {
 public:
  void read(std::uint64_t offset, std::span<std::byte> out) override {
    reads.push_back(offset);
    for (std::byte& byte : out) byte = static_cast<std::byte>(offset);
  }
  void write(std::uint64_t offset, std::span<const std::byte> in) override {
    writes.emplace_back(offset, in.size());
  }
  std::vector<std::uint64_t> reads;
  std::vector<std::pair<std::uint64_t, std::size_t>> writes;
};

std::byte read1(Bus& bus, std::uint64_t address) {
  std::array<std::byte, 1> value{};
  bus.read(address, value);
  return value[0];
}

}  // namespace

TEST_CASE("an access reaches the device whose range it is in, with the offset") {
  Bus bus("mmio");
  Recorder first;
  Recorder second;
  // Added out of order.
  REQUIRE(bus.add(0x2000, 0x1000, "second", second));
  REQUIRE(bus.add(0x1000, 0x1000, "first", first));
  CHECK(read1(bus, 0x1fff) == std::byte{0xff});
  CHECK(first.reads == std::vector<std::uint64_t>{0xfff});
  CHECK(read1(bus, 0x2000) == std::byte{0});
  std::array<std::byte, 8> eight{};
  bus.write(0x2ff8, eight);
  CHECK(second.writes.size() == 1);
  CHECK(second.writes.at(0).first == 0xff8);
  CHECK(bus.unmapped_reads() == 0);
}

TEST_CASE("an unmapped access reads all ones or is dropped, and is counted") {
  Bus bus("port");
  Recorder device;
  REQUIRE(bus.add(0x60, 5, "device", device));
  std::array<std::byte, 4> four{};
  for (const std::uint64_t address : {0x0ULL, 0x5fULL, 0x65ULL, 0xffffULL, 0xffff'ffff'ffff'ffffULL}) {
    four.fill(std::byte{0});
    bus.read(address, four);
    CHECK(four == std::array{std::byte{0xff}, std::byte{0xff}, std::byte{0xff}, std::byte{0xff}});
    bus.write(address, four);
  }
  CHECK(bus.unmapped_reads() == 5);
  CHECK(bus.unmapped_writes() == 5);
  CHECK(device.reads.empty());
  CHECK(device.writes.empty());
}

TEST_CASE("an access that leaves the device's range is unmapped") {
  Bus bus("port");
  Recorder device;
  REQUIRE(bus.add(0x3f8, 8, "device", device));
  std::array<std::byte, 4> four{};
  bus.read(0x3fd, four);
  bus.write(0x3f6, four);
  CHECK(device.reads.empty());
  CHECK(device.writes.empty());
  CHECK(bus.unmapped_reads() == 1);
  CHECK(bus.unmapped_writes() == 1);
  bus.read(0x3fc, four);
  CHECK(device.reads.size() == 1);
}

TEST_CASE("overlapping, empty and overflowing ranges are refused by name") {
  Bus bus("mmio");
  Recorder device;
  REQUIRE(bus.add(0x1000, 0x1000, "one", device));
  for (const auto& [start, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {0x1000, 0x1000}, {0x0, 0x1001}, {0x1fff, 1}, {0x1800, 0x10}, {0x0, 0x10000}}) {
    const auto status = bus.add(start, size, "two", device);
    REQUIRE_FALSE(status);
    CHECK(status.error().message.find("0x1000-0x1fff of one") != std::string::npos);
    CHECK(status.error().message.find("two") != std::string::npos);
  }
  CHECK_FALSE(bus.add(0x5000, 0, "empty", device));
  CHECK_FALSE(bus.add(0xffff'ffff'ffff'f000ULL, 0x1001, "overflow", device));
  CHECK(bus.add(0xffff'ffff'ffff'f000ULL, 0x1000, "top", device));
  CHECK(bus.add(0x2000, 0x1000, "after", device));
  CHECK(bus.add(0x0, 0x1000, "before", device));
}
