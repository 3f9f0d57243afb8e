#include "vmm/i8042.h"

#include <array>
#include <catch2/catch.hpp>
#include <vector>

using mayfly::vmm::I8042;

namespace {

struct Controller {
  int irqs = 0;
  int resets = 0;
  I8042 device{[this] { ++irqs; }, [this] { ++resets; }};

  std::uint8_t in(std::uint64_t port) {
    std::array<std::byte, 1> value{};
    device.read(port - mayfly::vmm::kI8042Port, value);
    return std::to_integer<std::uint8_t>(value[0]);
  }
  void out(std::uint64_t port, std::uint8_t value) {
    const std::array<std::byte, 1> bytes{std::byte{value}};
    device.write(port - mayfly::vmm::kI8042Port, bytes);
  }
  std::vector<std::uint8_t> drain() {
    std::vector<std::uint8_t> bytes;
    while ((in(0x64) & 1) != 0) bytes.push_back(in(0x60));
    return bytes;
  }
};
using Bytes = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE_METHOD(Controller, "the reset pulse, and the output port's reset line") {
  SECTION("0xfe") {
    out(0x64, 0xfe);
  }
  SECTION("output port") {
    out(0x64, 0xd1);
    out(0x60, 0x02);
  }
  CHECK(resets == 1);
}

TEST_CASE_METHOD(Controller, "other pulses and the A20 gate do not reset") {
  out(0x64, 0xff);
  out(0x64, 0xfd);
  out(0x64, 0xd1);
  out(0x60, 0xdf);
  out(0x60, 0xfe);  // as data it is no reset
  CHECK(resets == 0);
}

TEST_CASE_METHOD(Controller, "the input buffer is never full, so that nobody waits for it") {
  for (int value = 0; value < 256; ++value) {
    if ((value & 0xf1) == 0xf0) continue;  // a reset
    out(0x64, static_cast<std::uint8_t>(value));
    CHECK((in(0x64) & 0x02) == 0);
    out(0x60, static_cast<std::uint8_t>(value | 1));
    CHECK((in(0x64) & 0x02) == 0);
  }
}

TEST_CASE_METHOD(Controller, "a driver's probe is answered") {
  out(0x64, 0xaa);
  CHECK(drain() == Bytes{0x55});
  out(0x64, 0xab);
  CHECK(drain() == Bytes{0x00});
  out(0x64, 0x20);
  CHECK(drain() == Bytes{0x65});
  out(0x64, 0x60);
  out(0x60, 0x47);
  out(0x64, 0x20);
  CHECK(drain() == Bytes{0x47});
  // There is no mouse: the loop answers, but not as a mouse, and the port's test fails.
  out(0x64, 0xd3);
  out(0x60, 0x5a);
  CHECK((in(0x64) & 0x21) == 0x01);
  CHECK(drain() == Bytes{0x5a});
  out(0x64, 0xa9);
  CHECK(drain() == Bytes{0x01});
}

TEST_CASE_METHOD(Controller, "the keyboard acknowledges and identifies itself") {
  out(0x60, 0xf2);
  CHECK(drain() == Bytes{0xfa, 0xab, 0x83});
  out(0x60, 0xff);
  CHECK(drain() == Bytes{0xfa, 0xaa});
  out(0x60, 0xed);
  out(0x60, 0x02);
  CHECK(drain() == Bytes{0xfa, 0xfa});
  out(0x60, 0xee);
  CHECK(drain() == Bytes{0xee});
  CHECK(irqs > 0);
}

TEST_CASE_METHOD(Controller, "Ctrl-Alt-Del in the scan codes that the driver chose, an interrupt each byte") {
  SECTION("translated, as firmware leaves it") {
    REQUIRE(device.press_ctrl_alt_del());
    CHECK(irqs == 1);
    CHECK(drain() == Bytes{0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d});
    CHECK(irqs == 8);
  }
  SECTION("set 2") {
    out(0x64, 0x60);
    out(0x60, 0x05);
    REQUIRE(device.press_ctrl_alt_del());
    CHECK(drain() == Bytes{0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14});
  }
  SECTION("without interrupts") {
    out(0x64, 0x60);
    out(0x60, 0x44);
    REQUIRE(device.press_ctrl_alt_del());
    CHECK(irqs == 0);
  }
}

TEST_CASE_METHOD(Controller, "keys are not mixed with what the guest has not read") {
  REQUIRE(device.press_ctrl_alt_del());
  REQUIRE(device.press_ctrl_alt_del());
  CHECK_FALSE(device.press_ctrl_alt_del());
  CHECK(drain().size() == 16);
  CHECK(device.press_ctrl_alt_del());
}

TEST_CASE_METHOD(Controller, "a guest that never reads fills nothing but the buffer") {
  for (int i = 0; i < 1000; ++i) out(0x60, 0xf2);
  for (int i = 0; i < 1000; ++i) out(0x60, 0xee);
  CHECK(drain().size() == 16);
}

TEST_CASE_METHOD(Controller, "ports between data and command, and wide accesses, read as all ones") {
  CHECK(in(0x61) == 0xff);
  std::array<std::byte, 4> four{};
  device.read(0, four);
  CHECK(four[1] == std::byte{0xff});
}

TEST_CASE_METHOD(Controller, "the state makes the same controller again") {
  REQUIRE(device.press_ctrl_alt_del());
  Controller twin;
  twin.device.restore(device.save());
  CHECK(twin.drain() == drain());
}
