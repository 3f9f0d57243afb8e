#include "vmm/i8042.h"

#include <algorithm>
#include <utility>

namespace mayfly::vmm {

namespace {

constexpr std::uint64_t kDataOffset = 0;
constexpr std::uint64_t kCommandOffset = 4;

// Status register.
constexpr std::uint8_t kStatusOutputFull = 0x01;
constexpr std::uint8_t kStatusSystem = 0x04;
constexpr std::uint8_t kStatusCommand = 0x08;
constexpr std::uint8_t kStatusUnlocked = 0x10;

// Configuration byte.
constexpr std::uint8_t kConfigKeyboardInterrupt = 0x01;
constexpr std::uint8_t kConfigSystem = 0x04;
constexpr std::uint8_t kConfigKeyboardDisabled = 0x10;
constexpr std::uint8_t kConfigMouseDisabled = 0x20;
constexpr std::uint8_t kConfigTranslate = 0x40;

// Controller commands.
constexpr std::uint8_t kReadConfig = 0x20;
constexpr std::uint8_t kWriteConfig = 0x60;
constexpr std::uint8_t kDisableMouse = 0xa7;
constexpr std::uint8_t kEnableMouse = 0xa8;
constexpr std::uint8_t kTestMouse = 0xa9;
constexpr std::uint8_t kTestController = 0xaa;
constexpr std::uint8_t kTestKeyboard = 0xab;
constexpr std::uint8_t kDisableKeyboard = 0xad;
constexpr std::uint8_t kEnableKeyboard = 0xae;
constexpr std::uint8_t kReadOutputPort = 0xd0;
constexpr std::uint8_t kWriteOutputPort = 0xd1;
constexpr std::uint8_t kWriteKeyboardBuffer = 0xd2;
constexpr std::uint8_t kWriteMouseBuffer = 0xd3;
constexpr std::uint8_t kWriteMouse = 0xd4;
constexpr std::uint8_t kPulse = 0xf0;  // and the 15 that follow: a 0 in bit n pulses output line n
constexpr std::uint8_t kResetLine = 0x01;

constexpr std::uint8_t kControllerFine = 0x55;
constexpr std::uint8_t kPortFine = 0x00;
constexpr std::uint8_t kPortClockStuck = 0x01;  // what a test of a missing mouse port finds

// Keyboard commands and answers.
constexpr std::uint8_t kSetLeds = 0xed;
constexpr std::uint8_t kEcho = 0xee;
constexpr std::uint8_t kScanCodeSet = 0xf0;
constexpr std::uint8_t kIdentify = 0xf2;
constexpr std::uint8_t kSetRepeat = 0xf3;
constexpr std::uint8_t kResetKeyboard = 0xff;
constexpr std::uint8_t kAcknowledge = 0xfa;
constexpr std::uint8_t kSelfTestPassed = 0xaa;

// Ctrl, Alt and Del (the extended one) down, then up. With translation the controller turns the keyboard's
// scan code set 2 into set 1.
constexpr std::array<std::uint8_t, 8> kCtrlAltDelSet1 = {0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d};
constexpr std::array<std::uint8_t, 11> kCtrlAltDelSet2 = {0x14, 0x11, 0xe0, 0x71, 0xe0, 0xf0,
                                                          0x71, 0xf0, 0x11, 0xf0, 0x14};

}  // namespace

I8042::I8042(std::function<void()> raise_irq, std::function<void()> on_reset)
    : raise_irq_(std::move(raise_irq)), on_reset_(std::move(on_reset)) {
  // As firmware leaves it: keyboard on, translated, with its interrupt.
  s_.config = kConfigKeyboardInterrupt | kConfigSystem | kConfigMouseDisabled | kConfigTranslate;
  s_.output_port = 0x03;  // reset line high, A20 on
}

void I8042::read(std::uint64_t offset, std::span<std::byte> out) {
  const std::lock_guard lock(mutex_);
  std::fill(out.begin(), out.end(), std::byte{0xff});
  if (out.empty()) return;
  if (offset == kDataOffset) out[0] = std::byte{read_data()};
  if (offset == kCommandOffset) out[0] = std::byte{status()};
  // The ports in between are not the controller's and read as all ones. That is also what ends a loop which
  // waits for the timer's output, bit 5 of port 0x61, on a machine that has no such timer.
}

void I8042::write(std::uint64_t offset, std::span<const std::byte> in) {
  const std::lock_guard lock(mutex_);
  if (in.empty()) return;
  const auto value = std::to_integer<std::uint8_t>(in[0]);
  if (offset == kDataOffset) write_data(value);
  if (offset == kCommandOffset) write_command(value);
}

std::uint8_t I8042::status() const {
  std::uint8_t status = kStatusUnlocked;
  if (s_.buffer_used > 0) status |= kStatusOutputFull;
  if ((s_.config & kConfigSystem) != 0) status |= kStatusSystem;
  if (s_.last_was_command) status |= kStatusCommand;
  return status;
}

std::uint8_t I8042::read_data() {
  if (s_.buffer_used == 0) return 0;
  const std::uint8_t byte = s_.buffer[0];
  std::copy(s_.buffer.begin() + 1, s_.buffer.begin() + s_.buffer_used, s_.buffer.begin());
  --s_.buffer_used;
  if (s_.buffer_used > 0) interrupt_if_enabled();  // the next byte appears in the register
  return byte;
}

void I8042::answer(std::uint8_t byte) {
  if (s_.buffer_used < s_.buffer.size()) s_.buffer[s_.buffer_used++] = byte;
}

void I8042::interrupt_if_enabled() {
  if ((s_.config & kConfigKeyboardInterrupt) != 0) raise_irq_();
}

void I8042::write_command(std::uint8_t command) {
  s_.last_was_command = true;
  s_.next_data_is_for = 0;
  if (command >= kPulse) {
    if ((command & kResetLine) == 0) on_reset_();
    return;
  }
  switch (command) {
    case kReadConfig:
      return answer(s_.config);
    case kTestController:
      return answer(kControllerFine);
    case kTestKeyboard:
      return answer(kPortFine);
    case kTestMouse:
      return answer(kPortClockStuck);
    case kReadOutputPort:
      return answer(s_.output_port);
    case kDisableKeyboard:
      s_.config |= kConfigKeyboardDisabled;
      return;
    case kEnableKeyboard:
      s_.config &= static_cast<std::uint8_t>(~kConfigKeyboardDisabled);
      return;
    case kDisableMouse:
      s_.config |= kConfigMouseDisabled;
      return;
    case kEnableMouse:
      s_.config &= static_cast<std::uint8_t>(~kConfigMouseDisabled);
      return;
    case kWriteConfig:
    case kWriteOutputPort:
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:
    case kWriteMouse:
      s_.next_data_is_for = command;
      return;
    default:
      return;
  }
}

void I8042::write_data(std::uint8_t value) {
  s_.last_was_command = false;
  switch (std::exchange(s_.next_data_is_for, std::uint8_t{0})) {
    case kWriteConfig:
      s_.config = value;
      return;
    case kWriteOutputPort:
      s_.output_port = value;
      if ((value & kResetLine) == 0) on_reset_();
      return;
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:
      // Looped back as keyboard input: the missing mouse flag in the status says that there is no mouse.
      answer(value);
      return interrupt_if_enabled();
    case kWriteMouse:
      return;  // nobody there
    default:
      return keyboard_command(value);
  }
}

void I8042::keyboard_command(std::uint8_t command) {
  answer(kAcknowledge);
  if (std::exchange(s_.keyboard_argument_of, std::uint8_t{0}) == 0) {
    switch (command) {
      case kSetLeds:
      case kScanCodeSet:
      case kSetRepeat:
        s_.keyboard_argument_of = command;
        break;
      case kIdentify:
        answer(0xab);  // an ordinary keyboard
        answer(0x83);
        break;
      case kResetKeyboard:
        answer(kSelfTestPassed);
        break;
      case kEcho:
        s_.buffer[s_.buffer_used - 1U] = kEcho;  // in place of the acknowledgement
        break;
      default:
        break;
    }
  }
  interrupt_if_enabled();
}

bool I8042::keys(std::span<const std::uint8_t> codes) {
  if (codes.size() > s_.buffer.size() - s_.buffer_used) return false;
  for (const std::uint8_t code : codes) answer(code);
  interrupt_if_enabled();
  return true;
}

bool I8042::press_ctrl_alt_del() {
  const std::lock_guard lock(mutex_);
  if ((s_.config & kConfigTranslate) != 0) return keys(kCtrlAltDelSet1);
  return keys(kCtrlAltDelSet2);
}

I8042::State I8042::save() {
  const std::lock_guard lock(mutex_);
  return s_;
}

void I8042::restore(const State& state) {
  const std::lock_guard lock(mutex_);
  s_ = state;
}

}  // namespace mayfly::vmm
