#include "cli/session.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;
using base::agent::Stream;

namespace {

// Signals and window sizes that the guest has not read yet; the start frame may be longer.
constexpr std::size_t kMostToSend = 16U << 10U;
// From the command's end until its output streams must be there, which were opened before it started.
constexpr std::chrono::seconds kStreamPatience{20};

}  // namespace

Result<std::unique_ptr<Session>> Session::create(base::EventLoop& loop, StandardStreams streams,
                                                 const StartRequest& request, Observer observer) {
  std::string start = request.arguments.empty() ? std::string() : TRY(encode_start(request));
  std::unique_ptr<Session> session(
      new Session(loop, std::move(streams), request.tty, std::move(start), std::move(observer)));
  session->missing_streams_ = TRY(base::Timer::create(loop, [raw = session.get()] {
    if (!raw->output_ || (!raw->tty_ && !raw->errors_)) {
      raw->fail_with("the command ended, but its output was never connected");
    }
  }));
  return session;
}

Session::~Session() {
  for (const auto& [fd, unused] : pending_) loop_.remove(fd);
  if (control_.valid()) loop_.remove(control_.get());
}

bool Session::wants_streams() const {
  return state_ != State::kEnded && !std::ranges::all_of(attached_, std::identity{});
}

void Session::add_stream(UniqueFd fd) {
  if (!wants_streams()) return;
  if (pending_.size() == kMostPending) return fail_with("the guest opens connections and says nothing");
  const int raw = fd.get();
  pending_[raw].fd = std::move(fd);
  const Status added = loop_.add(raw, EPOLLIN, [this, raw](std::uint32_t) { read_preamble(raw); });
  if (!added) fail_with(added.error().message);
}

Status Session::begin(std::array<UniqueFd, kStreams> streams) {
  state_ = State::kStarting;
  for (std::size_t i = 0; i < kStreams; ++i) TRY(attach(static_cast<Stream>(i), std::move(streams[i])));
  send(std::exchange(start_, {}));
  return {};
}

void Session::guest_ended() {
  while (state_ < State::kDraining && control_.valid() && read_control()) continue;
  if (state_ < State::kDraining) fail_with("the guest ended", SessionEnd::Kind::kGone);
}

void Session::read_preamble(int fd) {
  Pending& pending = pending_.at(fd);
  // Not a byte more than the preamble: what follows is the stream's.
  const auto rest = std::span(pending.bytes).subspan(pending.count);
  const ssize_t n = ::recv(fd, rest.data(), rest.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return fail_with("the guest closed a connection before it said what it is for");
  pending.count += static_cast<std::size_t>(n);
  if (pending.count < pending.bytes.size()) return;

  loop_.remove(fd);
  const Result<StreamName> name = parse_preamble(pending.bytes);
  UniqueFd stream = std::move(pending.fd);
  pending_.erase(fd);
  if (!name) return fail_with("the guest sent " + name.error().message);
  if (id_.value_or(name->session) != name->session) return fail_with("the guest opened a second session");
  id_ = name->session;
  if (const Status attached = attach(name->stream, std::move(stream)); !attached) {
    return fail_with(attached.error().message);
  }
  if (wants_streams()) return;
  for (const auto& [leftover, unused] : pending_) loop_.remove(leftover);
  pending_.clear();
}

Status Session::attach(Stream stream, UniqueFd fd) {
  if (std::exchange(attached_.at(static_cast<std::size_t>(stream)), true)) {
    return fail("the guest opened stream {} twice", static_cast<unsigned>(stream));
  }
  switch (stream) {
    case Stream::kControl:
      return attach_control(std::move(fd));
    case Stream::kStdin:
      guest_input_ = std::move(fd);
      return state_ == State::kRunning ? pump_input() : Status{};
    case Stream::kStdout:
      return pump_output(stream, output_, std::move(fd), std::move(streams_.output), "output");
    case Stream::kStderr:
      // With a terminal there is one output; the guest closes the other.
      if (tty_) return {};
      return pump_output(stream, errors_, std::move(fd), std::move(streams_.errors), "error");
  }
  return {};
}

Status Session::attach_control(UniqueFd fd) {
  control_ = std::move(fd);
  return loop_.add(control_.get(), EPOLLIN, [this](std::uint32_t events) { serve_control(events); });
}

Status Session::pump_output(Stream stream, std::unique_ptr<Pump>& pump, UniqueFd fd, ByteEnd sink,
                            const char* name) {
  const auto on_end = [this, &pump, name](Pump::Ending ending, int error) {
    if (ending == Pump::Ending::kSinkFailed) {
      const auto text = fail_errno(error, "write to standard {}", name).error().message;
      observer_.on_local_error(text);
    }
    // Closes both ends: whoever reads ours sees its end, and a command that goes on writing gets EPIPE.
    pump->source().close();
    pump->sink().close();
    finish_if_drained();
  };
  Pump::Handlers handlers{.on_end = on_end};
  if (observer_.on_output) {
    handlers.on_bytes = [this, stream](std::span<const std::byte> bytes) {
      observer_.on_output(stream, bytes);
    };
  }
  pump = TRY(Pump::create(loop_, ByteEnd::own(std::move(fd)), std::move(sink), std::move(handlers)));
  return {};
}

// Not before the command runs: input that nobody will read stays where it is.
Status Session::pump_input() {
  if (!guest_input_.valid() || input_) return {};
  const auto on_end = [this](Pump::Ending ending, int error) {
    if (ending == Pump::Ending::kSourceFailed) {
      observer_.on_local_error(fail_errno(error, "read standard input").error().message);
    }
    input_->source().close();
    if (ending == Pump::Ending::kSourceEnded || ending == Pump::Ending::kSourceFailed) {
      input_->sink().half_close();
    } else {
      input_->sink().close();
    }
  };
  input_ = TRY(Pump::create(loop_, std::move(streams_.input), ByteEnd::own(std::move(guest_input_)),
                            {.on_end = on_end}));
  return {};
}

void Session::serve_control(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush_control();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_control();
}

// True when there may be more.
bool Session::read_control() {
  std::array<std::byte, 4096> buffer;
  const ssize_t n = ::recv(control_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) {
    loop_.remove(control_.get());
    if (state_ < State::kDraining) fail_with("the guest's agent went away", SessionEnd::Kind::kGone);
    return false;
  }
  std::span<const std::byte> bytes(buffer.data(), static_cast<std::size_t>(n));
  while (!bytes.empty() && state_ < State::kDraining) {
    const auto frame = reader_.take(bytes);
    if (!frame) fail_with("the guest sent " + frame.error().message);
    if (!frame || !*frame) return frame.has_value();
    if (observer_.on_frame) observer_.on_frame(**frame);
    if (const Status handled = handle(**frame); !handled) fail_with(handled.error().message);
  }
  return state_ < State::kDraining;
}

Status Session::handle(const GuestFrame& frame) {
  if (std::holds_alternative<HelloFrame>(frame) && state_ == State::kGreeting) {
    state_ = start_.empty() ? State::kIdle : State::kStarting;
    send(std::exchange(start_, {}));
    return {};
  }
  if (std::holds_alternative<StartedFrame>(frame) && state_ == State::kStarting) {
    state_ = State::kRunning;
    send(std::exchange(for_command_, {}));
    return pump_input();
  }
  if (const auto* failed = std::get_if<FailedFrame>(&frame); failed && state_ == State::kStarting) {
    end(SessionEnd::Kind::kFailed, failed->exit_status, failed->message);
    return {};
  }
  if (const auto* exited = std::get_if<ExitedFrame>(&frame); exited && state_ == State::kRunning) {
    state_ = State::kDraining;
    exit_status_ = exited->exit_status;
    input_.reset();
    missing_streams_->set(kStreamPatience);
    finish_if_drained();
    return {};
  }
  return fail("the guest sent frames in an order that makes no sense");
}

void Session::send(const std::string& frame) {
  if (!control_.valid()) return;
  to_send_ += frame;
  flush_control();
}

void Session::flush_control() {
  while (!to_send_.empty()) {
    const ssize_t n = ::send(control_.get(), to_send_.data(), to_send_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) {
      to_send_.clear();  // the read side will tell
      break;
    }
    to_send_.erase(0, static_cast<std::size_t>(n));
  }
  const std::uint32_t events = to_send_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  // It is not watched any more once the guest closed it.
  [[maybe_unused]] const Status modified = loop_.modify(control_.get(), events);
}

// The agent drops what comes for a command that it has not started yet.
void Session::send_to_command(const std::string& frame) {
  if (!running() || to_send_.size() + for_command_.size() >= kMostToSend) return;
  if (state_ == State::kRunning) {
    send(frame);
  } else {
    for_command_ += frame;
  }
}

void Session::send_signal(int number) {
  send_to_command(encode_signal(number));
}

void Session::resize(std::uint16_t rows, std::uint16_t columns) {
  send_to_command(encode_window_size(rows, columns));
}

void Session::request_shutdown() {
  send(encode_shutdown());
}

void Session::finish_if_drained() {
  const auto drained = [](const std::unique_ptr<Pump>& pump) { return pump && !pump->source().valid(); };
  if (state_ != State::kDraining || !drained(output_) || (!tty_ && !drained(errors_))) return;
  end(SessionEnd::Kind::kExited, exit_status_, {});
}

void Session::fail_with(std::string message, SessionEnd::Kind kind) {
  end(kind, 0, std::move(message));
}

void Session::end(SessionEnd::Kind kind, int exit_status, std::string message) {
  if (std::exchange(state_, State::kEnded) == State::kEnded) return;
  // From the loop, so that nothing of ours is on the stack when the observer destroys us.
  loop_.post([on_end = observer_.on_end, kind, exit_status, message = std::move(message)] {
    on_end(SessionEnd{kind, exit_status, message});
  });
}

}  // namespace mayfly::cli
