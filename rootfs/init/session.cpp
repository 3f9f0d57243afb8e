#include "rootfs/init/session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "rootfs/init/command.h"
#include "rootfs/init/terminal.h"

namespace mayfly::init {
namespace {

using base::agent::Frame;
using base::agent::Stream;

// Frames taken from one session before others get their turn.
constexpr int kFramesPerTurn = 16;

// The fixed body of a frame; false if it has another length.
template <base::Wire T>
bool decode(Buffer body, T& out) {
  if (body.size() != sizeof(T)) return false;
  std::memcpy(&out, body.bytes().data(), sizeof(T));
  return true;
}

}  // namespace

Session::~Session() {
  if (phase_ == Phase::kRunning) ::kill(-pid_, SIGKILL);
}

void Session::open(std::uint32_t id, std::uint64_t deadline) {
  id_ = id;
  deadline_ = deadline;
}

void Session::open_boot(std::array<base::UniqueFd, kStreams> connecting, std::uint64_t init_started,
                        std::uint64_t now) {
  id_ = 0;
  boot_ = true;
  phase_ = Phase::kConnecting;
  deadline_ = now + kPatience;
  init_started_ = init_started;
  streams_ = std::move(connecting);
}

bool Session::adopt(Stream which, base::UniqueFd fd) {
  const bool taken = which == Stream::kControl ? control_.open() : stream(which).valid();
  if (phase_ != Phase::kGathering || taken) return false;
  if (which == Stream::kControl) {
    control_.start(std::move(fd));
  } else {
    stream(which) = std::move(fd);
  }
  start_when_complete();
  return true;
}

void Session::watch(PollSet& polls) {
  if (phase_ == Phase::kConnecting) {
    for (std::size_t i = 0; i < kStreams; ++i) slots_[i] = polls.add(streams_[i].get(), POLLOUT);
  }
  control_.watch(polls);
  input_.watch(polls);
  output_.watch(polls);
  errors_.watch(polls);
  // After the command's end the deadline matters only to output that is still open.
  if (phase_ != Phase::kEnded || output_.flowing() || errors_.flowing()) polls.wake_by(deadline_);
}

Session::Turn Session::serve(const PollSet& polls, std::uint64_t now) {
  const bool late = now >= deadline_;
  if (phase_ == Phase::kConnecting) return late ? Turn::kEnded : finish_connecting(polls, now);
  const Turn turn = serve_control(polls);
  if (turn != Turn::kContinue) return turn;
  input_.serve(polls);
  output_.serve(polls);
  errors_.serve(polls);
  if (late && phase_ == Phase::kGathering) return Turn::kEnded;
  if (late && phase_ == Phase::kEnded) {
    deadline_ = kNever;
    output_.finish();
    errors_.finish();
  }
  return Turn::kContinue;
}

// All four connections were begun at once; each says who it is when it stands.
Session::Turn Session::finish_connecting(const PollSet& polls, std::uint64_t now) {
  bool all = true;
  for (std::size_t i = 0; i < kStreams; ++i) {
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(streams_[i].get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return Turn::kEnded;
    all = all && (polls.seen(slots_[i]) & POLLOUT) != 0;
  }
  if (!all) return Turn::kContinue;
  for (std::size_t i = 0; i < kStreams; ++i) {
    base::agent::Preamble preamble;
    preamble.magic = base::agent::kMagic;
    preamble.version = base::agent::kVersion;
    preamble.stream = static_cast<std::uint16_t>(i);
    preamble.session = id_;
    const ssize_t sent = ::send(streams_[i].get(), &preamble, sizeof(preamble), MSG_NOSIGNAL);
    if (sent != sizeof(preamble)) return Turn::kEnded;
  }
  control_.start(std::exchange(stream(Stream::kControl), base::UniqueFd()));
  phase_ = Phase::kGathering;
  deadline_ = kNever;  // the host may take its time with what to run
  base::agent::Hello hello;
  hello.init_started_ns = init_started_;
  hello.now_ns = now;
  return control_.send(Frame::kHello, hello) ? Turn::kContinue : Turn::kEnded;
}

Session::Turn Session::serve_control(const PollSet& polls) {
  if (!control_.serve(polls)) return Turn::kContinue;
  for (int frame = 0; frame < kFramesPerTurn; ++frame) {
    const Control::Input input = control_.receive();
    if (input == Control::Input::kNothing) return Turn::kContinue;
    if (input == Control::Input::kEnded) return Turn::kEnded;
    const Turn turn = handle_frame();
    if (turn != Turn::kContinue) return turn;
  }
  return Turn::kContinue;
}

// A type that is not known is skipped: a later host may say more than this guest understands.
Session::Turn Session::handle_frame() {
  Buffer body = control_.take_body();
  switch (control_.type()) {
    case Frame::kStart:
      return handle_start(std::move(body));
    case Frame::kSignal:
      handle_signal(std::move(body));
      break;
    case Frame::kWindowSize:
      handle_window_size(std::move(body));
      break;
    case Frame::kShutdown:
      return Turn::kShutdown;
    default:
      break;
  }
  return Turn::kContinue;
}

Session::Turn Session::handle_start(Buffer body) {
  if (phase_ != Phase::kGathering || start_asked_) return Turn::kEnded;
  if (!parse_start(std::move(body), request_)) return Turn::kEnded;
  start_asked_ = true;
  start_when_complete();
  return Turn::kContinue;
}

bool Session::all_streams() const {
  const auto have = [&](Stream which) { return streams_[static_cast<std::size_t>(which)].valid(); };
  return control_.open() && have(Stream::kStdin) && have(Stream::kStdout) &&
         (request_.tty || have(Stream::kStderr));
}

void Session::start_when_complete() {
  if (phase_ != Phase::kGathering || !start_asked_ || !all_streams()) return;
  Command command;
  const auto failure = start_command(request_, command);
  if (failure) return report_failure(failure->exit_status, failure->message.data());

  phase_ = Phase::kRunning;
  deadline_ = kNever;
  pid_ = command.pid;
  if (request_.tty) terminal_.reset(::fcntl(command.output.get(), F_DUPFD_CLOEXEC, 0));
  base::agent::Started started;
  started.now_ns = now_ns();
  started.pid = static_cast<std::uint32_t>(pid_);
  control_.send(Frame::kStarted, started);

  input_.start(std::move(stream(Stream::kStdin)), std::move(command.input),
               request_.tty ? Pump::Ending::kTerminal : Pump::Ending::kClose);
  output_.start(std::move(command.output), std::move(stream(Stream::kStdout)), Pump::Ending::kHalfClose);
  if (command.errors.valid()) {
    errors_.start(std::move(command.errors), std::move(stream(Stream::kStderr)), Pump::Ending::kHalfClose);
  } else {
    stream(Stream::kStderr).reset();
  }
  request_ = StartRequest();
}

void Session::report_failure(std::uint32_t exit_status, const char* message) {
  base::agent::Failed failed;
  failed.exit_status = exit_status;
  std::array<char, sizeof(failed) + sizeof(CommandFailure::message)> body;
  const std::size_t length = std::min(std::strlen(message), body.size() - sizeof(failed));
  std::memcpy(body.data(), &failed, sizeof(failed));
  std::memcpy(body.data() + sizeof(failed), message, length);
  control_.send_frame(Frame::kFailed, std::span(body).first(sizeof(failed) + length));
  for (base::UniqueFd& fd : streams_) fd.reset();
  request_ = StartRequest();
  phase_ = Phase::kEnded;
  deadline_ = kNever;
}

void Session::handle_signal(Buffer body) const {
  base::agent::Signal signal;
  if (!decode(std::move(body), signal) || signal.number < 1 || signal.number > 64) return;
  if (phase_ == Phase::kRunning) ::kill(-pid_, static_cast<int>(std::uint32_t{signal.number}));
}

void Session::handle_window_size(Buffer body) const {
  base::agent::WindowSize size;
  if (decode(std::move(body), size) && terminal_.valid())
    set_window_size(terminal_.get(), size.rows, size.columns);
}

void Session::command_ended(int status, std::uint64_t now) {
  base::agent::Exited exited;
  const bool killed = WIFSIGNALED(status);
  const int signal = killed ? WTERMSIG(status) : 0;
  exited.now_ns = now;
  exited.signal = static_cast<std::uint32_t>(signal);
  exited.exit_status = static_cast<std::uint32_t>(killed ? 128 + signal : WEXITSTATUS(status));
  control_.send(Frame::kExited, exited);
  pid_ = -1;
  phase_ = Phase::kEnded;
  deadline_ = now + kGrace;
  terminal_.reset();
  input_.abandon();
}

}  // namespace mayfly::init
