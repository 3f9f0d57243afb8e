#include "port.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>

namespace lab {

namespace {

// The node is called after the place of our device among all virtio devices, which is not ours to say.
int open_port(int number) {
  constexpr int kDevices = 16;
  for (int device = 0; device < kDevices; ++device) {
    const std::string path = "/dev/vport" + std::to_string(device) + "p" + std::to_string(number);
    const int fd = open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0) {
      return fd;
    }
  }
  return -1;
}

}  // namespace

Port::Port(int number) {
  while ((fd_ = open_port(number)) < 0) {
    usleep(10'000);
  }
  // A port without a peer is always "hung up" and "readable", so poll cannot wait for one; the driver's
  // SIGIO, which is blocked and so kept until we ask for it, can.
  fcntl(fd_, F_SETOWN, getpid());
  fcntl(fd_, F_SETFL, O_NONBLOCK | O_ASYNC);
}

Port::~Port() {
  close(fd_);
}

void Port::wait_while_idle() const {
  sigset_t io;
  sigemptyset(&io);
  sigaddset(&io, SIGIO);
  const timespec limit{.tv_sec = 1, .tv_nsec = 0};
  sigtimedwait(&io, nullptr, &limit);
}

void Port::fill() {
  in_.erase(0, in_done_);
  in_done_ = 0;
  char buffer[64 * 1024];
  // The driver hands out at most a page a read.
  for (int round = 0; round < 16; ++round) {
    const ssize_t got = read(fd_, buffer, sizeof buffer);
    if (got <= 0) {
      return;
    }
    in_.append(buffer, static_cast<std::size_t>(got));
  }
}

bool Port::next(Received& frame) {
  for (;; ++in_done_) {
    while (in_done_ < in_.size() && in_[in_done_] == 0) {
      ++in_done_;
    }
    const std::size_t have = in_.size() - in_done_;
    if (have < kHeaderSize) {
      return false;
    }
    std::uint32_t length = 0;
    std::memcpy(&length, in_.data() + in_done_ + 1, sizeof length);
    if (length > kMaxPayload) {
      continue;  // the rest of something cut short; the next hello is found by going on
    }
    if (have < kHeaderSize + length) {
      return false;
    }
    frame.type = static_cast<Frame>(in_[in_done_]);
    frame.payload.assign(in_, in_done_ + kHeaderSize, length);
    in_done_ += kHeaderSize + length;
    return true;
  }
}

void Port::send(Frame type, std::string_view payload) {
  const auto length = static_cast<std::uint32_t>(payload.size());
  char header[kHeaderSize];
  header[0] = static_cast<char>(type);
  std::memcpy(header + 1, &length, sizeof length);
  out_.append(header, kHeaderSize);
  out_.append(payload);
}

void Port::flush() {
  while (out_done_ < out_.size()) {
    const ssize_t sent = write(fd_, out_.data() + out_done_, out_.size() - out_done_);
    if (sent <= 0) {
      break;
    }
    out_done_ += static_cast<std::size_t>(sent);
  }
  if (out_done_ == out_.size()) {
    out_.clear();
    out_done_ = 0;
  }
}

void Port::discard_unsent() {
  out_.clear();
  out_done_ = 0;
}

}  // namespace lab
