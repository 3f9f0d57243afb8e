// The PC's keyboard controller (ports 0x60–0x64), for its two uses here: the guest resets the machine with
// it, and Ctrl-Alt-Del asks the guest to.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string_view>

#include "vmm/bus.h"

namespace mayfly::vmm {

inline constexpr std::uint64_t kI8042Port = 0x60;
inline constexpr std::uint64_t kI8042Size = 5;  // data at 0x60, status and command at 0x64

// A controller with a keyboard and no mouse. Every question that a driver's probe asks is answered at once,
// the questions about a mouse with "there is none": an unanswered one costs Linux half a second.
class I8042 final : public BusDevice {
 public:
  struct State {
    std::array<std::uint8_t, 16> buffer{};  // for the guest to read, the oldest first
    std::uint8_t buffer_used = 0;
    std::uint8_t config = 0;
    std::uint8_t output_port = 0;
    std::uint8_t next_data_is_for = 0;  // the controller command that waits for a byte at port 0x60; 0: none
    std::uint8_t keyboard_argument_of = 0;  // likewise a keyboard command
    bool last_was_command = false;
  };

  // `raise_irq` pulses interrupt line 1; `on_reset` is called (on a vCPU's thread) when the guest asks for a
  // reset. Both with the device's mutex held.
  I8042(std::function<void()> raise_irq, std::function<void()> on_reset);

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

  // Presses and releases the three keys. False when the guest has not read earlier input. Any thread.
  bool press_ctrl_alt_del();

  [[nodiscard]] State save();
  void restore(const State& state);

 private:
  void write_command(std::uint8_t command);
  void write_data(std::uint8_t value);
  void keyboard_command(std::uint8_t command);
  bool keys(std::span<const std::uint8_t> codes);
  void answer(std::uint8_t byte);
  void interrupt_if_enabled();
  [[nodiscard]] std::uint8_t status() const;
  [[nodiscard]] std::uint8_t read_data();

  std::function<void()> raise_irq_;
  std::function<void()> on_reset_;
  std::mutex mutex_;  // guards s_
  State s_;
};

}  // namespace mayfly::vmm
