// The registers of a 16550A: what the driver reads and writes, without any file or thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace mayfly::vmm {

// Not thread-safe. After any call that may change something, ask take_interrupt().
//
// A byte written to THR leaves at once; THRE goes off only while the owner says that it cannot take more
// (set_transmit_ready), so no baud rate is imitated.
class Uart {
 public:
  static constexpr std::uint64_t kRegisters = 8;
  static constexpr std::size_t kFifoSize = 16;

  struct State {
    std::array<std::uint8_t, kFifoSize> fifo{};  // received, not read yet; the oldest first
    std::uint8_t fifo_used = 0;
    std::uint8_t ier = 0;
    std::uint8_t fcr = 0;
    std::uint8_t lcr = 3;  // 8 bits, no parity
    std::uint8_t mcr = 0;
    std::uint8_t scr = 0;
    std::uint16_t divisor = 12;  // 9600 baud
    bool overrun = false;
    bool transmit_ready = true;
    bool thr_interrupt = false;  // "THR empty" not acknowledged yet
  };

  Uart() = default;
  explicit Uart(const State& state) : s_(state) {}
  [[nodiscard]] const State& state() const { return s_; }

  // `reg` < kRegisters.
  std::uint8_t read(std::uint64_t reg);
  // The byte that goes out on the line, if this sent one.
  std::optional<std::uint8_t> write(std::uint64_t reg, std::uint8_t value);

  // Bytes that may be received now: room in the FIFO, once the driver asks the line for more (RTS). Input from
  // before would be lost: Linux enables the receive interrupt first, then the FIFO, which empties it, and
  // raises RTS last.
  [[nodiscard]] std::size_t receive_room() const;
  // At most receive_room() bytes.
  void receive(std::span<const std::byte> bytes);
  void set_transmit_ready(bool ready);

  // Whether the interrupt line is to be pulsed; clears the request.
  bool take_interrupt();

 private:
  void push(std::uint8_t byte);
  [[nodiscard]] std::size_t depth() const;
  [[nodiscard]] std::uint8_t pop();
  [[nodiscard]] bool divisor_access() const;
  [[nodiscard]] bool loopback() const;
  [[nodiscard]] std::uint8_t pending() const;
  [[nodiscard]] std::uint8_t read_iir();
  [[nodiscard]] std::uint8_t read_lsr();
  [[nodiscard]] std::uint8_t msr() const;
  std::optional<std::uint8_t> transmit(std::uint8_t byte);
  void write_fcr(std::uint8_t value);
  void request_interrupt();

  State s_;
  bool pulse_ = false;
};

}  // namespace mayfly::vmm
