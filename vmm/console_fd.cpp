#include "vmm/console_fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace mayfly::vmm {

namespace {

// What poll(2) promises to fit: PIPE_BUF for a pipe (pipe(7)). A terminal promises one byte; this much fits
// into the buffer of any that is not stopped.
constexpr std::size_t kPipePromise = 4096;
constexpr std::size_t kTerminalPromise = 64;

ssize_t or_errno(ssize_t n) {
  return n < 0 ? -errno : n;
}

}  // namespace

ConsoleFd::ConsoleFd(int fd, Direction direction) : fd_(fd) {
  struct stat what {};
  if (fd_ < 0 || ::fstat(fd_, &what) < 0) {
    fd_ = -1;
    return;
  }
  if (S_ISSOCK(what.st_mode)) {
    kind_ = Kind::kSocket;
    return;
  }
  if (!S_ISFIFO(what.st_mode) && !S_ISCHR(what.st_mode)) return;  // a disk is never waited for
  const int access = direction == Direction::kInput ? O_RDONLY : O_WRONLY;
  own_.reset(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), access | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
  if (own_.valid()) {
    fd_ = own_.get();
  } else {
    kind_ = S_ISFIFO(what.st_mode) ? Kind::kPipe : Kind::kTerminal;
  }
}

bool ConsoleFd::ready(short events) const {
  pollfd poll{.fd = fd_, .events = events, .revents = 0};
  return ::poll(&poll, 1, 0) > 0;
}

ssize_t ConsoleFd::read_some(std::span<std::byte> out) {
  switch (kind_) {
    case Kind::kSocket:
      return or_errno(::recv(fd_, out.data(), out.size(), MSG_DONTWAIT));
    case Kind::kPipe:
    case Kind::kTerminal:
      if (!ready(POLLIN)) return -EAGAIN;
      break;
    case Kind::kNeverWaits:
      break;
  }
  return or_errno(::read(fd_, out.data(), out.size()));
}

ssize_t ConsoleFd::write_some(std::span<const std::byte> bytes) {
  switch (kind_) {
    case Kind::kSocket:
      return or_errno(::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL));
    case Kind::kPipe:
      if (!ready(POLLOUT)) return -EAGAIN;
      bytes = bytes.first(std::min(bytes.size(), kPipePromise));
      break;
    case Kind::kTerminal:
      if (!ready(POLLOUT)) return -EAGAIN;
      bytes = bytes.first(std::min(bytes.size(), kTerminalPromise));
      break;
    case Kind::kNeverWaits:
      break;
  }
  return or_errno(::write(fd_, bytes.data(), bytes.size()));
}

}  // namespace mayfly::vmm
