// Our own terminal, while a terminal in the guest is shown in it.
#pragma once

#include <termios.h>

#include <cstdint>
#include <optional>

#include "base/result.h"

namespace mayfly::cli {

struct WindowSize {
  std::uint16_t rows = 0;  // 0: unknown
  std::uint16_t columns = 0;
};
WindowSize window_size(int fd);

// Puts a terminal into raw mode for as long as it lives: every key goes to the guest, Ctrl-C too. It is put
// back by the destructor, by a handler when a signal that means a defect (SIGSEGV, SIGABRT, …) ends us, and
// by the keeper after SIGKILL. At most one at a time.
class RawTerminal {
 public:
  static base::Result<RawTerminal> enter(int fd);
  ~RawTerminal();
  RawTerminal(RawTerminal&& other) noexcept;
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

  // Raw again, after the shell had the terminal while we were stopped.
  void reenter() const;

 private:
  explicit RawTerminal(int fd) : fd_(fd) {}
  int fd_;
};

// A terminal's modes, for who may have to put them back in mayfly's place.
class SavedModes {
 public:
  explicit SavedModes(int fd);  // what is not a terminal has none
  // Only a terminal that is as RawTerminal leaves it is changed: a shell may have taken it over already.
  void put_back(int fd) const;

 private:
  std::optional<termios> modes_;
};

}  // namespace mayfly::cli
