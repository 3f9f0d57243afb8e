#include "vmm/console_fd.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/ready.h"

namespace mayfly::vmm {

namespace {

// What poll(2) promises to fit: PIPE_BUF for a pipe (pipe(7)). A terminal promises one byte; this much fits
// into the buffer of any that is not stopped.
constexpr std::size_t kPipePromise = 4096;
constexpr std::size_t kTerminalPromise = 64;

ssize_t or_errno(ssize_t n) {
  return n < 0 ? -errno : n;
}

// With the calls that other sockets are served with, so that the system call filter need not allow more.
ssize_t receive(int fd, std::span<std::byte> out) {
  iovec piece{.iov_base = out.data(), .iov_len = out.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  return or_errno(::recvmsg(fd, &message, MSG_DONTWAIT));
}
ssize_t transmit(int fd, std::span<const std::byte> bytes) {
  // An iovec is for both directions; sendmsg(2) only reads.
  iovec piece{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  return or_errno(::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL));
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
  return base::ready(fd_, events);
}

ssize_t ConsoleFd::read_some(std::span<std::byte> out) {
  switch (kind_) {
    case Kind::kSocket:
      return receive(fd_, out);
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
      return transmit(fd_, bytes);
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
