#include "vmm/uart.h"

#include <algorithm>

namespace mayfly::vmm {

namespace {

// Register numbers and bits have the names of the 16550's data sheet.
enum Register : std::uint8_t { kData, kIer, kIirFcr, kLcr, kMcr, kLsr, kMsr, kScr };

constexpr std::uint8_t kIerReceived = 0x01;
constexpr std::uint8_t kIerThrEmpty = 0x02;
constexpr std::uint8_t kIerLineStatus = 0x04;
constexpr std::uint8_t kIerMask = 0x0f;

constexpr std::uint8_t kIirNone = 0x01;
constexpr std::uint8_t kIirThrEmpty = 0x02;
constexpr std::uint8_t kIirReceived = 0x04;
constexpr std::uint8_t kIirLineStatus = 0x06;
constexpr std::uint8_t kIirFifoEnabled = 0xc0;

constexpr std::uint8_t kFcrEnable = 0x01;
constexpr std::uint8_t kFcrClearReceiver = 0x02;

constexpr std::uint8_t kLcrDivisorAccess = 0x80;

constexpr std::uint8_t kMcrDtr = 0x01;
constexpr std::uint8_t kMcrRts = 0x02;
constexpr std::uint8_t kMcrOut1 = 0x04;
constexpr std::uint8_t kMcrOut2 = 0x08;
constexpr std::uint8_t kMcrLoop = 0x10;
constexpr std::uint8_t kMcrMask = 0x1f;

constexpr std::uint8_t kLsrDataReady = 0x01;
constexpr std::uint8_t kLsrOverrun = 0x02;
constexpr std::uint8_t kLsrTransmitterEmpty = 0x60;  // THRE and TEMT

constexpr std::uint8_t kMsrCts = 0x10;
constexpr std::uint8_t kMsrDsr = 0x20;
constexpr std::uint8_t kMsrRi = 0x40;
constexpr std::uint8_t kMsrDcd = 0x80;

constexpr bool has(std::uint8_t value, std::uint8_t bits) {
  return (value & bits) != 0;
}

}  // namespace

bool Uart::divisor_access() const {
  return has(s_.lcr, kLcrDivisorAccess);
}

bool Uart::loopback() const {
  return has(s_.mcr, kMcrLoop);
}

std::size_t Uart::depth() const {
  return has(s_.fcr, kFcrEnable) ? kFifoSize : 1;
}

std::size_t Uart::receive_room() const {
  if (loopback() || !has(s_.mcr, kMcrRts) || s_.fifo_used >= depth()) return 0;
  return depth() - s_.fifo_used;
}

void Uart::push(std::uint8_t byte) {
  if (s_.fifo_used >= depth()) {
    s_.overrun = true;
    return;
  }
  s_.fifo[s_.fifo_used++] = byte;
}

std::uint8_t Uart::pop() {
  if (s_.fifo_used == 0) return 0;
  const std::uint8_t byte = s_.fifo[0];
  std::copy(s_.fifo.begin() + 1, s_.fifo.begin() + s_.fifo_used, s_.fifo.begin());
  --s_.fifo_used;
  return byte;
}

void Uart::receive(std::span<const std::byte> bytes) {
  for (const std::byte byte : bytes) push(std::to_integer<std::uint8_t>(byte));
  request_interrupt();
}

void Uart::set_transmit_ready(bool ready) {
  const bool became_empty = ready && !s_.transmit_ready;
  s_.transmit_ready = ready;
  if (!became_empty) return;
  s_.thr_interrupt = true;
  request_interrupt();
}

// The source that IIR names, by the data sheet's priority, or kIirNone.
std::uint8_t Uart::pending() const {
  if (has(s_.ier, kIerLineStatus) && s_.overrun) return kIirLineStatus;
  if (has(s_.ier, kIerReceived) && s_.fifo_used > 0) return kIirReceived;
  if (has(s_.ier, kIerThrEmpty) && s_.thr_interrupt) return kIirThrEmpty;
  return kIirNone;
}

void Uart::request_interrupt() {
  if (pending() != kIirNone) pulse_ = true;
}

bool Uart::take_interrupt() {
  const bool pulse = pulse_;
  pulse_ = false;
  return pulse;
}

std::uint8_t Uart::read_iir() {
  const std::uint8_t source = pending();
  if (source == kIirThrEmpty) s_.thr_interrupt = false;  // reading it here acknowledges it
  return source | (has(s_.fcr, kFcrEnable) ? kIirFifoEnabled : 0);
}

std::uint8_t Uart::read_lsr() {
  std::uint8_t lsr = 0;
  if (s_.fifo_used > 0) lsr |= kLsrDataReady;
  if (s_.overrun) lsr |= kLsrOverrun;
  if (s_.transmit_ready) lsr |= kLsrTransmitterEmpty;
  s_.overrun = false;
  return lsr;
}

std::uint8_t Uart::msr() const {
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrDcd;  // a peer that is always there
  // In loopback the four modem control outputs are wired to the four inputs.
  std::uint8_t msr = 0;
  if (has(s_.mcr, kMcrRts)) msr |= kMsrCts;
  if (has(s_.mcr, kMcrDtr)) msr |= kMsrDsr;
  if (has(s_.mcr, kMcrOut1)) msr |= kMsrRi;
  if (has(s_.mcr, kMcrOut2)) msr |= kMsrDcd;
  return msr;
}

std::uint8_t Uart::read(std::uint64_t reg) {
  switch (reg) {
    case kData:
      return divisor_access() ? static_cast<std::uint8_t>(s_.divisor & 0xffU) : pop();
    case kIer:
      return divisor_access() ? static_cast<std::uint8_t>(s_.divisor >> 8U) : s_.ier;
    case kIirFcr:
      return read_iir();
    case kLcr:
      return s_.lcr;
    case kMcr:
      return s_.mcr;
    case kLsr:
      return read_lsr();
    case kMsr:
      return msr();
    case kScr:
      return s_.scr;
    default:
      return 0xff;
  }
}

std::optional<std::uint8_t> Uart::transmit(std::uint8_t byte) {
  // The byte leaves at once, so THR is empty again: a new request, unless the last one was not answered yet.
  // While the owner is full the byte is sent all the same: it is the driver that did not wait for THRE.
  const bool news = s_.transmit_ready && !s_.thr_interrupt;
  if (s_.transmit_ready) s_.thr_interrupt = true;
  if (loopback()) push(byte);
  if (news || loopback()) request_interrupt();
  return loopback() ? std::nullopt : std::optional(byte);
}

void Uart::write_fcr(std::uint8_t value) {
  // Switching the FIFOs on or off empties them.
  if (has(value, kFcrClearReceiver) || has(value, kFcrEnable) != has(s_.fcr, kFcrEnable)) s_.fifo_used = 0;
  s_.fcr = value & (has(value, kFcrEnable) ? 0xc9 : 0);
}

std::optional<std::uint8_t> Uart::write(std::uint64_t reg, std::uint8_t value) {
  switch (reg) {
    case kData:
      if (!divisor_access()) return transmit(value);
      s_.divisor = static_cast<std::uint16_t>((s_.divisor & 0xff00U) | value);
      break;
    case kIer:
      if (divisor_access()) {
        s_.divisor = static_cast<std::uint16_t>((s_.divisor & 0x00ffU) | (std::uint32_t{value} << 8U));
        break;
      }
      // Enabling the interrupt while THR is empty requests it.
      if (has(value, kIerThrEmpty) && !has(s_.ier, kIerThrEmpty) && s_.transmit_ready)
        s_.thr_interrupt = true;
      s_.ier = value & kIerMask;
      request_interrupt();
      break;
    case kIirFcr:
      write_fcr(value);
      break;
    case kLcr:
      s_.lcr = value;
      break;
    case kMcr:
      s_.mcr = value & kMcrMask;
      break;
    case kScr:
      s_.scr = value;
      break;
    default:  // LSR and MSR are read-only
      break;
  }
  return std::nullopt;
}

}  // namespace mayfly::vmm
