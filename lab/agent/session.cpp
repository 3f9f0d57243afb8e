#include "session.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

namespace lab {
namespace {

constexpr int kQuietMs = 20;
// A hello can overtake the news that lab/run has connected: so long a port may look hung up after one.
constexpr int kMaxHangUps = 1000;
constexpr useconds_t kHangUpUs = 5'000;
// After the end of a command on a terminal: how long what it printed may take to come through the terminal.
constexpr int kTerminalQuietRounds = 5;

std::string bytes_of(std::uint32_t value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

void set_clock(std::uint64_t time_ns) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  const auto here = static_cast<std::int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
  const auto there = static_cast<std::int64_t>(time_ns);
  constexpr std::int64_t kTolerance = 50'000'000;
  if (here - there > kTolerance || there - here > kTolerance) {
    const timespec right{.tv_sec = there / 1'000'000'000, .tv_nsec = there % 1'000'000'000};
    clock_settime(CLOCK_REALTIME, &right);
  }
}

void forget_files() {
  const int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    (void)!write(fd, "3", 1);
    close(fd);
  }
}

}  // namespace

Session::Session(int slot) : port_(1 + slot), group_("/sys/fs/cgroup/lab-slot" + std::to_string(slot)) {
  mkdir(group_.c_str(), 0755);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  child_signals_ = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
}

void Session::run() {
  for (;;) {
    active_ ? wait_for_events() : port_.wait_while_idle();
    port_.fill();
    for (Received frame; port_.next(frame);) {
      handle(frame);
    }
    reap();
    finish_if_done();
    port_.flush();
  }
}

// Waits until something can move, and moves the command's own streams.
void Session::wait_for_events() {
  const bool room = port_.unsent() < 4 * kMaxPayload;
  enum { kPort, kChild, kIn, kOut, kErr, kCount };
  pollfd fds[kCount] = {};
  const auto set = [&](int index, int fd, short events) {
    fds[index] = {.fd = events != 0 ? fd : -1, .events = events, .revents = 0};
  };
  set(kPort, port_.fd(), static_cast<short>(POLLIN | (port_.unsent() > 0 ? POLLOUT : 0)));
  set(kChild, child_signals_, POLLIN);
  set(kIn, command_.in, stdin_.empty() ? 0 : POLLOUT);
  set(kOut, command_.out, room && credit_[1] > 0 ? POLLIN : 0);
  set(kErr, command_.err, room && credit_[2] > 0 ? POLLIN : 0);
  const int ready = poll(fds, kCount, exited_ ? kQuietMs : -1);
  quiet_rounds_ = ready == 0 ? quiet_rounds_ + 1 : 0;

  if ((fds[kPort].revents & POLLHUP) == 0) {
    connected_ = true;
  } else if (connected_ || ++hang_ups_ > kMaxHangUps) {
    abandon();
    return;
  } else {
    usleep(kHangUpUs);
  }
  if (fds[kIn].revents != 0) {
    write_stdin();
  }
  if (fds[kOut].revents != 0) {
    read_stream(command_.out, Frame::kStdout, 1);
  }
  if (fds[kErr].revents != 0) {
    read_stream(command_.err, Frame::kStderr, 2);
  }
}

void Session::handle(const Received& frame) {
  if (frame.type == Frame::kHello) {
    abandon();
    active_ = true;
    exited_ = false;
    stdin_ended_ = false;
    connected_ = false;
    hang_ups_ = 0;
    credit_[1] = credit_[2] = kWindow;
    port_.send(Frame::kHelloBack, frame.payload);
    return;
  }
  if (!active_) {
    return;  // the tail of what was meant for a command that has ended
  }
  switch (frame.type) {
    case Frame::kStart:
      start(start_message_ + frame.payload);
      start_message_.clear();
      break;
    case Frame::kStartMore:
      if (start_message_.size() < kMaxStart) {
        start_message_ += frame.payload;
      }
      break;
    case Frame::kStdin:
      if (command_.in < 0) {
        give_credit(0, frame.payload.size());  // nobody reads it any more
      } else {
        stdin_ += frame.payload;
        write_stdin();
      }
      break;
    case Frame::kStdinEnd:
      stdin_ended_ = true;
      write_stdin();
      break;
    case Frame::kSignal:
      if (command_.pid > 0 && frame.payload.size() == 1) {
        kill(-command_.pid, frame.payload[0]);
      }
      break;
    case Frame::kWindowSize:
      if (command_.terminal && frame.payload.size() == 4) {
        winsize size{};
        std::memcpy(&size.ws_row, frame.payload.data(), 2);
        std::memcpy(&size.ws_col, frame.payload.data() + 2, 2);
        ioctl(command_.out, TIOCSWINSZ, &size);
      }
      break;
    case Frame::kKill:
      kill_everything(group_, command_.pid);
      break;
    case Frame::kPing:
      port_.send(Frame::kPong, {});
      break;
    case Frame::kCloseStream:
      if (!frame.payload.empty() && !command_.terminal) {
        frame.payload[0] == 1 ? command_.close_out() : command_.close_err();
      }
      break;
    case Frame::kCredit:
      if (frame.payload.size() == 5 && (frame.payload[0] == 1 || frame.payload[0] == 2)) {
        std::uint32_t bytes = 0;
        std::memcpy(&bytes, frame.payload.data() + 1, sizeof bytes);
        credit_[static_cast<std::size_t>(frame.payload[0])] += bytes;
      }
      break;
    default:
      break;
  }
}

void Session::start(std::string_view message) {
  Request request;
  int status = 125;
  std::string reason = "malformed request";
  if (Request::parse(message, request)) {
    set_clock(request.header.time_ns);
    if ((request.header.flags & kFlagForgetFiles) != 0) {
      forget_files();
    }
    command_ = Command::start(request, group_, status, reason);
  }
  if (command_.pid < 0) {
    port_.send(Frame::kError, bytes_of(static_cast<std::uint32_t>(status)) + reason);
    active_ = false;
  }
}

void Session::give_credit(int stream, std::size_t bytes) {
  port_.send(Frame::kCredit,
             std::string(1, static_cast<char>(stream)) + bytes_of(static_cast<std::uint32_t>(bytes)));
}

void Session::write_stdin() {
  if (command_.in >= 0 && !stdin_.empty()) {
    const ssize_t sent = write(command_.in, stdin_.data(), stdin_.size());
    if (sent > 0) {
      give_credit(0, static_cast<std::size_t>(sent));
      stdin_.erase(0, static_cast<std::size_t>(sent));
    } else if (errno != EAGAIN) {
      give_credit(0, stdin_.size());  // it has closed its input; what comes goes nowhere
      stdin_.clear();
      command_.close_in();
    }
  }
  if (stdin_ended_ && stdin_.empty() && command_.in >= 0) {
    command_.close_in();
  }
}

void Session::read_stream(int& fd, Frame type, int stream) {
  char buffer[kMaxPayload];
  std::size_t& credit = credit_[stream];
  const ssize_t got = read(fd, buffer, credit < sizeof buffer ? credit : sizeof buffer);
  if (got > 0) {
    credit -= static_cast<std::size_t>(got);
    port_.send(type, {buffer, static_cast<std::size_t>(got)});
  } else if (got == 0 || errno != EAGAIN) {
    stream == 1 ? command_.close_out() : command_.close_err();
  }
}

void Session::reap() {
  signalfd_siginfo info;
  while (read(child_signals_, &info, sizeof info) > 0) {
  }
  int status = 0;
  if (command_.pid > 0 && !exited_ && waitpid(command_.pid, &status, WNOHANG) == command_.pid) {
    exited_ = true;
    quiet_rounds_ = 0;
    status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
}

// Once the command is gone: all it wrote has been read when a stream ends, or has nothing to read (something
// it left running holds it open).
void Session::finish_if_done() {
  if (!active_ || !exited_) {
    return;
  }
  const auto drained = [&](int fd, std::size_t credit) {
    pollfd peek{.fd = fd, .events = POLLIN, .revents = 0};
    return fd < 0 || (credit > 0 && poll(&peek, 1, 0) == 0);
  };
  const bool out_done = drained(command_.out, credit_[1]) &&
                        (!command_.terminal || command_.out < 0 || quiet_rounds_ >= kTerminalQuietRounds);
  if (out_done && drained(command_.err, credit_[2])) {
    port_.send(Frame::kExit, bytes_of(static_cast<std::uint32_t>(status_)));
    command_.close_in();
    command_.close_out();
    command_.close_err();
    command_ = {};
    stdin_.clear();
    active_ = false;
  }
}

// lab/run is gone, or another has taken the slot: nobody wants this command any more.
void Session::abandon() {
  if (command_.pid > 0) {
    kill_everything(group_, command_.pid);
    command_.close_in();
    command_.close_out();
    command_.close_err();
    if (!exited_) {
      waitpid(command_.pid, nullptr, 0);
    }
  }
  command_ = {};
  start_message_.clear();
  stdin_.clear();
  active_ = false;
  port_.discard_unsent();
}

}  // namespace lab
