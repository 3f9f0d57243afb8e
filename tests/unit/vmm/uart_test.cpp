#include "vmm/uart.h"

#include <array>
#include <catch2/catch.hpp>

#include "tests/unit/vmm/uart_registers.h"

using mayfly::vmm::Uart;
using namespace mayfly::test;

namespace {
std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}
}  // namespace

TEST_CASE("the steps by which Linux finds out what the UART is lead to a plain 16550A") {
  Uart uart;
  // Interrupt enable: four bits and no more.
  uart.write(kIer, 0);
  CHECK((uart.read(kIer) & 0x0f) == 0);
  uart.write(kIer, 0xff);
  CHECK(uart.read(kIer) == 0x0f);
  uart.write(kIer, 0);
  // Loopback: RTS and OUT2 appear as CTS and DCD.
  uart.write(kMcr, 0x1a);
  CHECK((uart.read(kMsr) & 0xf0) == 0x90);
  uart.write(kMcr, 0);
  // FIFOs.
  uart.write(kIir, 0x01);
  CHECK((uart.read(kIir) & 0xc0) == 0xc0);
  // No extended register at 2, whatever LCR says, and no 64-byte FIFO.
  for (const std::uint8_t lcr : std::array<std::uint8_t, 3>{0x80, 0xbf, 0xe0}) {
    uart.write(kLcr, lcr);
    CHECK(uart.read(kIir) != 0);
  }
  uart.write(kLcr, 0);
  uart.write(kIir, 0x21);
  CHECK((uart.read(kIir) & 0xe0) == 0xc0);
  // Scratch.
  uart.write(kScr, 0x5a);
  CHECK(uart.read(kScr) == 0x5a);
}

TEST_CASE("the divisor is behind DLAB and sends nothing") {
  Uart uart;
  uart.write(kLcr, 0x83);
  CHECK_FALSE(uart.write(kData, 0x34));
  CHECK_FALSE(uart.write(kIer, 0x12));
  CHECK(uart.read(kData) == 0x34);
  CHECK(uart.read(kIer) == 0x12);
  uart.write(kLcr, 0x03);
  CHECK(uart.read(kIer) == 0);
  CHECK(uart.state().divisor == 0x1234);
}

TEST_CASE("a byte is sent at once and the transmitter stays empty") {
  Uart uart;
  CHECK(uart.write(kData, 'x') == std::optional<std::uint8_t>('x'));
  CHECK((uart.read(kLsr) & 0x60) == 0x60);
  CHECK_FALSE(uart.take_interrupt());
}

TEST_CASE(
    "the transmitter's interrupt: asked for by enabling it, by each burst, acknowledged by reading IIR") {
  Uart uart;
  uart.write(kIer, 0x02);
  CHECK(uart.take_interrupt());
  CHECK((uart.read(kIir) & 0x0f) == 0x02);
  CHECK((uart.read(kIir) & 0x0f) == 0x01);
  CHECK_FALSE(uart.take_interrupt());
  uart.write(kData, 'a');
  CHECK(uart.take_interrupt());
  uart.write(kData, 'b');  // not answered yet: the line is up already
  CHECK_FALSE(uart.take_interrupt());
  CHECK((uart.read(kIir) & 0x0f) == 0x02);
  uart.write(kIer, 0);
  uart.write(kIer, 0x02);
  CHECK(uart.take_interrupt());
}

TEST_CASE("while the owner is full THRE is off, and its return interrupts") {
  Uart uart;
  uart.write(kIer, 0x02);
  uart.take_interrupt();
  uart.read(kIir);
  uart.set_transmit_ready(false);
  CHECK((uart.read(kLsr) & 0x60) == 0);
  CHECK(uart.write(kData, 'x'));  // a driver that does not look
  CHECK_FALSE(uart.take_interrupt());
  uart.set_transmit_ready(true);
  CHECK(uart.take_interrupt());
  CHECK((uart.read(kLsr) & 0x60) == 0x60);
}

TEST_CASE("nothing is received before a driver requests it") {
  Uart uart;
  uart.write(kIer, 0x05);
  CHECK(uart.receive_room() == 0);
  uart.write(kMcr, 0x02);
  CHECK(uart.receive_room() == 1);
  uart.write(kIir, 0x01);
  CHECK(uart.receive_room() == Uart::kFifoSize);
  uart.write(kMcr, 0);
  CHECK(uart.receive_room() == 0);
}

TEST_CASE("received bytes come in order, with data ready and an interrupt") {
  Uart uart;
  uart.write(kIir, 0x01);
  uart.write(kIer, 0x01);
  uart.write(kMcr, 0x02);
  uart.receive(bytes("hey"));
  CHECK(uart.take_interrupt());
  CHECK((uart.read(kIir) & 0x0f) == 0x04);
  CHECK(uart.receive_room() == Uart::kFifoSize - 3);
  for (const char expected : std::string_view("hey")) {
    CHECK((uart.read(kLsr) & 0x01) == 0x01);
    CHECK(uart.read(kData) == static_cast<std::uint8_t>(expected));
  }
  CHECK((uart.read(kLsr) & 0x01) == 0);
  CHECK((uart.read(kIir) & 0x0f) == 0x01);
  CHECK(uart.read(kData) == 0);
}

TEST_CASE("a full FIFO loses what comes after and says so once") {
  Uart uart;
  uart.write(kIir, 0x01);
  uart.write(kIer, 0x05);
  uart.receive(bytes("0123456789abcdefXY"));
  CHECK(uart.receive_room() == 0);
  CHECK((uart.read(kIir) & 0x0f) == 0x06);
  CHECK((uart.read(kLsr) & 0x02) == 0x02);
  CHECK((uart.read(kLsr) & 0x02) == 0);
  CHECK(uart.read(kData) == '0');
}

TEST_CASE("loopback keeps bytes inside and stops outside input") {
  Uart uart;
  uart.write(kIir, 0x01);
  uart.write(kIer, 0x01);
  uart.write(kMcr, 0x12);
  CHECK(uart.receive_room() == 0);
  CHECK_FALSE(uart.write(kData, 'L'));
  CHECK(uart.take_interrupt());
  CHECK(uart.read(kData) == 'L');
}

TEST_CASE("clearing and switching the FIFO empties it") {
  Uart uart;
  uart.write(kMcr, 0x02);
  uart.write(kIir, 0x01);
  uart.receive(bytes("ab"));
  SECTION("clear") {
    uart.write(kIir, 0x03);
  }
  SECTION("off") {
    uart.write(kIir, 0x00);
  }
  CHECK((uart.read(kLsr) & 0x01) == 0);
}

TEST_CASE("the state makes the same UART again") {
  Uart uart;
  uart.write(kIir, 0x01);
  uart.write(kIer, 0x03);
  uart.receive(bytes("ab"));
  uart.write(kScr, 7);
  Uart twin(uart.state());
  CHECK(twin.read(kData) == 'a');
  CHECK(twin.read(kData) == 'b');
  CHECK(twin.read(kScr) == 7);
  CHECK((twin.read(kIir) & 0x0f) == 0x02);
}
