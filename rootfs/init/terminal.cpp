#include "rootfs/init/terminal.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER 0x5441  // not in musl's headers of every version
#endif

namespace mayfly::init {

void set_window_size(int terminal, std::uint16_t rows, std::uint16_t columns) {
  const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
  ::ioctl(terminal, TIOCSWINSZ, &size);
}

Terminal open_terminal(std::uint32_t uid, std::uint16_t rows, std::uint16_t columns) {
  Terminal terminal;
  terminal.master.reset(::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!terminal.master.valid()) return terminal;
  const int unlocked = 0;
  ::ioctl(terminal.master.get(), TIOCSPTLCK, &unlocked);
  // The other side by descriptor, not by name: /dev/pts may be anything in a foreign image.
  terminal.slave.reset(::ioctl(terminal.master.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!terminal.slave.valid()) return {};
  // The command's user must be able to open its own terminal again.
  [[maybe_unused]] const int owned = ::fchown(terminal.slave.get(), uid, static_cast<gid_t>(-1));
  set_window_size(terminal.master.get(), rows, columns);
  return terminal;
}

}  // namespace mayfly::init
