#include "rootfs/init/pump.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>

namespace mayfly::init {
namespace {

// Full buffers moved before others get their turn.
constexpr int kRounds = 8;

bool would_block() {
  return errno == EAGAIN || errno == EINTR;
}

}  // namespace

void Pump::start(base::UniqueFd source, base::UniqueFd sink, Ending ending) {
  abandon();
  source_ = std::move(source);
  sink_ = std::move(sink);
  ending_ = ending;
}

void Pump::abandon() {
  source_.reset();
  sink_.reset();
  begin_ = end_ = remaining_ = 0;
  source_ended_ = bounded_ = false;
  source_slot_ = sink_slot_ = PollSet::kNoSlot;
}

void Pump::watch(PollSet& polls) {
  source_slot_ = sink_slot_ = PollSet::kNoSlot;
  if (!flowing()) return;
  const bool holding = begin_ < end_;
  // A source that has hung up is always ready; it is of no interest while there is no room.
  if (!holding) source_slot_ = polls.add(source_.get(), POLLIN);
  sink_slot_ = polls.add(sink_.get(), holding ? POLLOUT : short{0});
}

void Pump::serve(const PollSet& polls) {
  if (!flowing()) return;
  const short sink = polls.seen(sink_slot_);
  // Nobody will read: closing the source tells its writer, as a closed pipe would.
  if ((sink & (POLLERR | POLLHUP | POLLNVAL)) != 0) return abandon();
  if (polls.seen(source_slot_) == 0 && (sink & POLLOUT) == 0) return;
  for (int round = 0; round < kRounds && flowing(); ++round) {
    const bool holding = begin_ < end_;
    if (!holding && !fill()) break;
    const bool was_full = end_ == kBufferBytes;
    // A short read emptied the source; poll says when there is more.
    if (!drain() || !was_full) break;
  }
  if (source_ended_ && begin_ == end_ && flowing()) end_sink();
}

bool Pump::fill() {
  if (!buffer_.valid()) buffer_ = Buffer::allocate(kBufferBytes);
  if (!buffer_.valid()) {
    abandon();
    return false;
  }
  const std::size_t wanted = bounded_ ? std::min(remaining_, kBufferBytes) : kBufferBytes;
  const ssize_t count = wanted == 0 ? 0 : ::read(source_.get(), buffer_.bytes().data(), wanted);
  if (count < 0 && would_block()) {
    if (bounded_ && errno == EAGAIN) source_ended_ = true;
    return false;
  }
  // EIO is how a terminal says that nobody has it open any more; a reset connection ends likewise.
  if (count <= 0) {
    source_ended_ = true;
    return false;
  }
  begin_ = 0;
  end_ = static_cast<std::size_t>(count);
  if (bounded_) remaining_ -= end_;
  if (bounded_ && remaining_ == 0) source_ended_ = true;
  return true;
}

bool Pump::drain() {
  const std::span<char> held = buffer_.bytes().subspan(begin_, end_ - begin_);
  const ssize_t count = ::write(sink_.get(), held.data(), held.size());
  if (count < 0) {
    if (!would_block()) abandon();
    return false;
  }
  begin_ += static_cast<std::size_t>(count);
  return begin_ == end_;
}

void Pump::finish() {
  if (!flowing() || bounded_) return;
  int readable = 0;
  if (::ioctl(source_.get(), FIONREAD, &readable) != 0) readable = 0;
  bounded_ = true;
  remaining_ = static_cast<std::size_t>(std::max(readable, 0));
  if (remaining_ == 0) source_ended_ = true;
  if (source_ended_ && begin_ == end_) end_sink();
}

void Pump::end_sink() {
  source_.reset();
  if (ending_ == Ending::kClose) sink_.reset();
  if (ending_ == Ending::kHalfClose) ::shutdown(sink_.get(), SHUT_WR);
  if (ending_ == Ending::kTerminal) {
    termios settings{};
    if (::tcgetattr(sink_.get(), &settings) == 0 && (settings.c_lflag & ICANON) != 0) {
      [[maybe_unused]] const ssize_t typed = ::write(sink_.get(), &settings.c_cc[VEOF], 1);
    }
    sink_.reset();
  }
}

}  // namespace mayfly::init
