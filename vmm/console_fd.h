// One end of the guest's console: a terminal, pipe, socket or file that belongs to someone else.
#pragma once

#include <sys/types.h>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/unique_fd.h"

namespace mayfly::vmm {

// Reads and writes that never wait, without setting O_NONBLOCK on the caller's fd: that flag belongs to the
// open file, which the fd shares with other processes (the user's shell among them).
//
// A pipe or terminal is opened once more for ourselves, by way of /proc. Where that cannot be (a jail has
// no /proc), poll(2) is asked before each read and each short write.
class ConsoleFd {
 public:
  enum class Direction : std::uint8_t { kInput, kOutput };

  // `fd` is borrowed for the lifetime of the object; negative: nothing there.
  ConsoleFd(int fd, Direction direction);

  [[nodiscard]] bool present() const { return fd_ >= 0; }
  // For an event loop.
  [[nodiscard]] int fd() const { return fd_; }

  // As read(2) and write(2); -EAGAIN instead of waiting, -errno for other errors. A reader that is gone is
  // -EPIPE; SIGPIPE must be ignored.
  ssize_t read_some(std::span<std::byte> out);
  ssize_t write_some(std::span<const std::byte> bytes);

 private:
  enum class Kind : std::uint8_t { kNeverWaits, kSocket, kPipe, kTerminal };
  [[nodiscard]] bool ready(short events) const;

  base::UniqueFd own_;
  int fd_;
  Kind kind_ = Kind::kNeverWaits;
};

}  // namespace mayfly::vmm
