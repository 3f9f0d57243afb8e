#include "cli/pump.h"

#include <sys/epoll.h>

#include <cerrno>
#include <utility>

namespace mayfly::cli {

using base::Result;
using base::Status;

namespace {

// So many fillings of the buffer in a row, then others on the loop have their turn.
constexpr int kMostRounds = 8;
constexpr std::chrono::milliseconds kRetryInterval{200};

}  // namespace

Pump::Pump(base::EventLoop& loop, ByteEnd source, ByteEnd sink, Handlers handlers)
    : loop_(loop),
      source_(std::move(source)),
      sink_(std::move(sink)),
      handlers_(std::move(handlers)),
      alive_(std::make_shared<bool>(true)),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kBufferBytes)) {}

Result<std::unique_ptr<Pump>> Pump::create(base::EventLoop& loop, ByteEnd source, ByteEnd sink,
                                           Handlers handlers) {
  std::unique_ptr<Pump> pump(new Pump(loop, std::move(source), std::move(sink), std::move(handlers)));
  TRY(pump->watch(pump->source_.fd(), EPOLLIN | EPOLLRDHUP, pump->readable_));
  // Errors and hang-ups are told as well: that is how a reader that went away is noticed while there is
  // nothing to write.
  TRY(pump->watch(pump->sink_.fd(), EPOLLOUT, pump->writable_));
  pump->run_soon();
  return pump;
}

Pump::~Pump() {
  *alive_ = false;
  if (source_.valid()) loop_.remove(source_.fd());
  if (sink_.valid()) loop_.remove(sink_.fd());
}

// Edge-triggered: one registration for the pump's whole life, and a hang-up on an end that we are not
// interested in at the moment does not keep the loop spinning.
Status Pump::watch(int fd, std::uint32_t events, bool& ready) {
  Status added = loop_.add(fd, events | EPOLLET, [this, fd, &ready](std::uint32_t happened) {
    ready = true;
    if (fd == sink_.fd() && (happened & (EPOLLERR | EPOLLHUP)) != 0) return end(Ending::kSinkClosed, 0);
    run();
  });
  if (!added && added.error().code == EPERM) return {};  // a file or a device that never waits
  return added;
}

void Pump::run_soon() {
  if (std::exchange(posted_, true)) return;
  loop_.post([this, alive = alive_] {
    if (!*alive) return;
    posted_ = false;
    run();
  });
}

void Pump::run() {
  for (int round = 0; round < kMostRounds; ++round) {
    if (ended_) return;
    if (begin_ == end_ && !fill()) return;
    if (!drain()) return;
  }
  run_soon();
}

// True when the buffer holds something.
bool Pump::fill() {
  if (!source_ended_ && readable_) {
    const ByteEnd::Outcome outcome = source_.read({buffer_.get(), kBufferBytes});
    switch (outcome.state) {
      case ByteEnd::State::kBytes:
        begin_ = 0;
        end_ = outcome.count;
        if (handlers_.on_bytes) handlers_.on_bytes({buffer_.get(), end_});
        return true;
      case ByteEnd::State::kWait:
        readable_ = false;
        break;
      case ByteEnd::State::kLater:
        if (!retry_) {
          auto timer = base::Timer::create(loop_, [this] { run(); });
          if (!timer) {
            source_ended_ = true;
            source_error_ = timer.error().code;
            break;
          }
          retry_ = std::move(*timer);
        }
        retry_->set(kRetryInterval);
        break;
      case ByteEnd::State::kFailed:
        source_error_ = outcome.error;
        [[fallthrough]];
      case ByteEnd::State::kEnd:
        source_ended_ = true;
        break;
    }
  }
  if (source_ended_) end(source_error_ == 0 ? Ending::kSourceEnded : Ending::kSourceFailed, source_error_);
  return false;
}

// True when the buffer is empty.
bool Pump::drain() {
  while (begin_ < end_) {
    if (!writable_) return false;
    const ByteEnd::Outcome outcome = sink_.write({buffer_.get() + begin_, end_ - begin_});
    switch (outcome.state) {
      case ByteEnd::State::kBytes:
        begin_ += outcome.count;
        break;
      case ByteEnd::State::kWait:
      case ByteEnd::State::kLater:
        writable_ = false;
        return false;
      case ByteEnd::State::kEnd:
        end(Ending::kSinkClosed, 0);
        return false;
      case ByteEnd::State::kFailed:
        end(Ending::kSinkFailed, outcome.error);
        return false;
    }
  }
  return true;
}

void Pump::end(Ending ending, int error) {
  if (std::exchange(ended_, true)) return;
  loop_.remove(source_.fd());
  loop_.remove(sink_.fd());
  // The handler may destroy us, and with us itself.
  const auto on_end = std::move(handlers_.on_end);
  on_end(ending, error);
}

}  // namespace mayfly::cli
