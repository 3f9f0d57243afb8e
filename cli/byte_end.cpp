#include "cli/byte_end.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "base/file.h"

namespace mayfly::cli {

using base::Result;
using base::UniqueFd;

namespace {

constexpr int kFirstFreeFd = 3;

ByteEnd::Outcome outcome_of(ssize_t n) {
  if (n > 0) return {ByteEnd::State::kBytes, static_cast<std::size_t>(n)};
  if (n == 0) return {ByteEnd::State::kEnd};
  if (errno == EAGAIN) return {ByteEnd::State::kWait};
  if (errno == EPIPE || errno == ECONNRESET) return {ByteEnd::State::kEnd};
  return {ByteEnd::State::kFailed, 0, errno};
}

template <typename Call>
ssize_t uninterrupted(Call call) {
  for (;;) {
    const ssize_t n = call();
    if (n >= 0 || errno != EINTR) return n;
  }
}

// The same pipe or terminal as an open file of our own, or invalid where that is not allowed.
UniqueFd open_again(int fd, ByteEnd::Direction direction) {
  const std::string path = fmt::format("/proc/self/fd/{}", fd);
  const int access = direction == ByteEnd::Direction::kRead ? O_RDONLY : O_WRONLY;
  return UniqueFd(::open(path.c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
}

}  // namespace

ByteEnd ByteEnd::own(UniqueFd fd) {
  struct stat status {};
  const bool socket = ::fstat(fd.get(), &status) == 0 && S_ISSOCK(status.st_mode);
  return {std::move(fd), socket ? Kind::kSocket : Kind::kNonblocking, false};
}

Result<ByteEnd> ByteEnd::standard(int fd, Direction direction, bool leave_behind) {
  struct stat status {};
  if (::fstat(fd, &status) < 0) return base::fail_errno(errno, "look at file descriptor {}", fd);
  const bool terminal = S_ISCHR(status.st_mode) && ::isatty(fd) == 1;
  UniqueFd end;
  Kind kind = Kind::kAlwaysReady;
  if (S_ISFIFO(status.st_mode) || terminal) {
    end = open_again(fd, direction);
    kind = end.valid() ? Kind::kNonblocking : Kind::kBlocking;
  } else if (S_ISSOCK(status.st_mode)) {
    kind = Kind::kSocket;
  } else if (S_ISCHR(status.st_mode)) {
    kind = Kind::kBlocking;
  }
  if (!end.valid()) {
    end.reset(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstFreeFd));
    if (!end.valid()) return base::fail_errno(errno, "duplicate file descriptor {}", fd);
  }
  if (!leave_behind) {
    const UniqueFd null = TRY(base::open_file("/dev/null", O_RDWR));
    if (::dup2(null.get(), fd) < 0) return base::fail_errno(errno, "let go of file descriptor {}", fd);
  }
  return ByteEnd(std::move(end), kind, terminal);
}

bool ByteEnd::in_background() const {
  const pid_t foreground = ::tcgetpgrp(fd_.get());
  // -1: it is not the terminal that controls us, and the rule does not apply.
  return terminal_ && foreground >= 0 && foreground != ::getpgrp();
}

bool ByteEnd::ready(short events) const {
  if (kind_ != Kind::kBlocking) return true;
  pollfd entry{.fd = fd_.get(), .events = events, .revents = 0};
  return ::poll(&entry, 1, 0) > 0;
}

ByteEnd::Outcome ByteEnd::read(std::span<std::byte> out) const {
  // Reading now would stop us with SIGTTIN, and would take from the foreground what was typed for it.
  if (in_background()) return {State::kLater};
  if (!ready(POLLIN)) return {State::kWait};
  const ssize_t n = uninterrupted([&] {
    return kind_ == Kind::kSocket ? ::recv(fd_.get(), out.data(), out.size(), MSG_DONTWAIT)
                                  : ::read(fd_.get(), out.data(), out.size());
  });
  // A terminal whose other side is gone says EIO, which is its end of file.
  if (n < 0 && errno == EIO && terminal_) return {in_background() ? State::kLater : State::kEnd};
  return outcome_of(n);
}

ByteEnd::Outcome ByteEnd::write(std::span<const std::byte> bytes) const {
  if (!ready(POLLOUT)) return {State::kWait};
  // pipe(7): a pipe that poll() calls writable takes this many bytes without waiting.
  if (kind_ == Kind::kBlocking) bytes = bytes.first(std::min<std::size_t>(bytes.size(), PIPE_BUF));
  const ssize_t n = uninterrupted([&] {
    return kind_ == Kind::kSocket ? ::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                                  : ::write(fd_.get(), bytes.data(), bytes.size());
  });
  if (n < 0 && errno == EIO && terminal_) return {State::kEnd};
  return outcome_of(n);
}

void ByteEnd::half_close() {
  if (kind_ == Kind::kSocket) {
    ::shutdown(fd_.get(), SHUT_WR);
  } else {
    fd_.reset();
  }
}

}  // namespace mayfly::cli
