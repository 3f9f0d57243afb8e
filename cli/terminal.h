// Our own terminal, while a terminal in the guest is shown in it.
#pragma once

#include <cstdint>

#include "base/result.h"

namespace mayfly::cli {

struct WindowSize {
  std::uint16_t rows = 0;  // 0: unknown
  std::uint16_t columns = 0;
};
WindowSize window_size(int fd);

// Puts a terminal into raw mode for as long as it lives: every key goes to the guest, Ctrl-C too. It is put
// back by the destructor, and by a handler when a signal that means a defect (SIGSEGV, SIGABRT, …) ends us;
// only SIGKILL leaves it raw. At most one at a time.
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

}  // namespace mayfly::cli
