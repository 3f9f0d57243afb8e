#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <utility>

namespace mayfly::cli {

namespace {

constexpr std::array kDefects = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP};

// For the signal handler, which knows nothing else. `saved_modes` is written before `saved_fd` is.
std::atomic<int> saved_fd = -1;
termios saved_modes;

void restore() {
  const int fd = saved_fd.exchange(-1);
  if (fd < 0) return;
  // TCSADRAIN would wait for a reader that may be gone.
  ::tcsetattr(fd, TCSANOW, &saved_modes);
}

extern "C" void restore_and_die(int signal) {
  restore();
  // SA_RESETHAND has put the default action back.
  ::raise(signal);
}

termios raw_modes(const termios& modes) {
  termios raw = modes;
  ::cfmakeraw(&raw);
  return raw;
}

}  // namespace

WindowSize window_size(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) < 0) return {};
  return {.rows = size.ws_row, .columns = size.ws_col};
}

base::Result<RawTerminal> RawTerminal::enter(int fd) {
  if (::tcgetattr(fd, &saved_modes) < 0) {
    if (errno == ENOTTY) return base::fail("standard input is not a terminal");
    return base::fail_errno(errno, "read the terminal's modes");
  }
  const termios raw = raw_modes(saved_modes);
  saved_fd = fd;
  struct sigaction action {};
  action.sa_handler = restore_and_die;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : kDefects) ::sigaction(signal, &action, nullptr);
  if (::tcsetattr(fd, TCSANOW, &raw) < 0) {
    saved_fd = -1;
    return base::fail_errno(errno, "set the terminal's modes");
  }
  return RawTerminal(fd);
}

RawTerminal::RawTerminal(RawTerminal&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

RawTerminal::~RawTerminal() {
  if (fd_ >= 0) restore();
}

void RawTerminal::reenter() const {
  const termios raw = raw_modes(saved_modes);
  ::tcsetattr(fd_, TCSANOW, &raw);
}

SavedModes::SavedModes(int fd) {
  termios modes{};
  if (::tcgetattr(fd, &modes) == 0) modes_ = modes;
}

void SavedModes::put_back(int fd) const {
  termios now{};
  if (!modes_ || ::tcgetattr(fd, &now) < 0) return;
  const termios raw = raw_modes(*modes_);
  const bool ours = now.c_iflag == raw.c_iflag && now.c_oflag == raw.c_oflag && now.c_cflag == raw.c_cflag &&
                    now.c_lflag == raw.c_lflag;
  if (ours) ::tcsetattr(fd, TCSANOW, &*modes_);
}

}  // namespace mayfly::cli
