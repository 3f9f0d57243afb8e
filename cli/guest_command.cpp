#include "cli/guest_command.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <optional>
#include <thread>

#include "cli/foreground.h"
#include "cli/keeper.h"
#include "cli/machine_control.h"
#include "cli/machine_status.h"
#include "cli/run.h"
#include "cli/vmm_place.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace agent = base::agent;

namespace {

using namespace std::chrono_literals;

// For the guest to accept a connection: a host that is overloaded is not one that hangs.
constexpr timeval kPatience{.tv_sec = 60, .tv_usec = 0};
// From the loss of a session until a machine that is ending has ended.
constexpr auto kEndPatience = 5s;
constexpr std::size_t kLongestReply = 32;
constexpr std::size_t kMostErrors = 4096;

Status check_state(const FoundMachine& machine) {
  switch (state_of(machine)) {
    case MachineState::kRunning:
      return {};
    case MachineState::kPaused:
      return fail("{0} is paused: mayfly resume {0}", machine.facts.name);
    case MachineState::kStarting:
      return fail("{} has not started yet", machine.facts.name);
    case MachineState::kSilent:
      break;
  }
  return fail("{}", describe_loss(machine));
}

// "CONNECT PORT\n" is answered by "OK PORT\n", or by the end of the connection. Not a byte more is read.
Status await_ok(const UniqueFd& fd, const FoundMachine& machine) {
  std::string reply;
  while (!reply.ends_with('\n')) {
    char byte = 0;
    const ssize_t n = ::recv(fd.get(), &byte, 1, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return fail("{}: the guest does not answer", machine.facts.name);
    if (n <= 0 || reply.size() == kLongestReply) return fail("{}", describe_loss(machine));
    reply.push_back(byte);
  }
  if (!reply.starts_with("OK ")) return fail("{}: the guest has no agent", machine.facts.name);
  return {};
}

Result<UniqueFd> begin_stream(const FoundMachine& machine) {
  Result<UniqueFd> fd = connect_to(VmmPlace::socket_in(machine.path, kVsock));
  if (!fd) return fail("{}", describe_loss(machine));
  ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  const std::string line = fmt::format("CONNECT {}\n", agent::kGuestPort);
  if (::send(fd->get(), line.data(), line.size(), MSG_NOSIGNAL) < 0)
    return fail("{}", describe_loss(machine));
  return fd;
}

}  // namespace

std::string describe_loss(const FoundMachine& machine) {
  const auto deadline = std::chrono::steady_clock::now() + kEndPatience;
  while (is_kept(machine)) {
    if (std::chrono::steady_clock::now() > deadline) {
      return fmt::format("{}: the guest's agent closed the connection; it runs 63 further commands at a time",
                         machine.facts.name);
    }
    std::this_thread::sleep_for(20ms);
  }
  return fmt::format("{}: the machine ended before the command did", machine.facts.name);
}

Result<std::array<UniqueFd, Session::kStreams>> open_streams(const FoundMachine& machine) {
  TRY(check_state(machine));
  std::uint32_t session = 0;
  if (::getrandom(&session, sizeof(session), 0) != sizeof(session))
    return fail_errno(errno, "get randomness");
  std::array<UniqueFd, Session::kStreams> streams;
  for (UniqueFd& each : streams) each = TRY(begin_stream(machine));
  for (std::size_t i = 0; i < streams.size(); ++i) {
    TRY(await_ok(streams[i], machine));
    const agent::Preamble preamble{.magic = agent::kMagic,
                                   .version = agent::kVersion,
                                   .stream = static_cast<std::uint16_t>(i),
                                   .session = session};
    if (::send(streams[i].get(), &preamble, sizeof(preamble), MSG_NOSIGNAL) != sizeof(preamble)) {
      return fail("{}", describe_loss(machine));
    }
  }
  return streams;
}

Result<int> run_in_machine(const FoundMachine& machine, const StartRequest& request, StandardStreams streams,
                           std::string* errors) {
  auto connections = TRY(open_streams(machine));
  const auto loop = TRY(base::EventLoop::create());
  std::optional<SessionEnd> end;
  std::string local_error;
  const auto keep_errors = [&](agent::Stream stream, std::span<const std::byte> bytes) {
    if (stream != agent::Stream::kStderr || errors == nullptr) return;
    for (const std::byte each : bytes.first(std::min(bytes.size(), kMostErrors - errors->size()))) {
      errors->push_back(static_cast<char>(each));
    }
  };
  const auto session =
      TRY(Session::create(*loop, std::move(streams), request,
                          {.on_output = keep_errors,
                           .on_local_error = [&](const std::string& text) { local_error = text; },
                           .on_end =
                               [&](const SessionEnd& ended) {
                                 end = ended;
                                 loop->stop();
                               }}));
  TRY(session->begin(std::move(connections)));
  TRY(loop->run());
  if (!local_error.empty()) return fail("{}", local_error);
  switch (end->kind) {
    case SessionEnd::Kind::kExited:
      return end->exit_status;
    case SessionEnd::Kind::kFailed:
      return std::unexpected(base::Error{end->exit_status, end->message});
    case SessionEnd::Kind::kGone:
      return fail("{}", describe_loss(machine));
    case SessionEnd::Kind::kBroken:
      break;
  }
  return fail("{}", end->message);
}

namespace {

class Exec {
 public:
  Exec(const ExecOptions& options, const FoundMachine& machine, Keeper keeper,
       std::unique_ptr<base::EventLoop> loop)
      : options_(options), machine_(machine), loop_(std::move(loop)), keeper_(std::move(keeper)) {}

  Status start();
  Result<int> wait() {
    TRY(loop_->run());
    foreground_->leave_raw();
    return *result_;
  }

 private:
  void on_frame(const GuestFrame& frame);
  void on_session_end(const SessionEnd& end);
  void on_signal(int signal);
  void finish(Result<int> result) {
    if (!result_) result_ = std::move(result);
    loop_->stop();
  }

  const ExecOptions& options_;
  const FoundMachine& machine_;
  std::unique_ptr<base::EventLoop> loop_;
  Keeper keeper_;
  bool output_lost_ = false;
  std::unique_ptr<Foreground> foreground_;
  std::unique_ptr<Session> session_;
  std::optional<Result<int>> result_;
};

Status Exec::start() {
  // Signals end us as usual until there is somebody to have them.
  auto connections = TRY(open_streams(machine_));
  foreground_ =
      TRY(Foreground::create(*loop_, {.session = [this] { return session_.get(); },
                                      .on_signal = [this](int signal) { on_signal(signal); },
                                      .on_stubborn = [this](int signal) { finish(128 + signal); }}));
  StandardStreams streams = TRY(standard_streams(options_.tty, options_.input || options_.tty));
  session_ = TRY(Session::create(*loop_, std::move(streams), start_request(options_),
                                 {.on_frame = [this](const GuestFrame& frame) { on_frame(frame); },
                                  .on_local_error =
                                      [this](const std::string& message) {
                                        output_lost_ = true;
                                        fmt::print(stderr, "mayfly: {}\n", message);
                                      },
                                  .on_end = [this](const SessionEnd& end) { on_session_end(end); }}));
  return session_->begin(std::move(connections));
}

void Exec::on_frame(const GuestFrame& frame) {
  if (!std::holds_alternative<StartedFrame>(frame) || !options_.tty) return;
  if (const Status raw = foreground_->enter_raw(); !raw) finish(std::unexpected(raw.error()));
}

void Exec::on_session_end(const SessionEnd& end) {
  switch (end.kind) {
    case SessionEnd::Kind::kExited:
      return finish(output_lost_ && end.exit_status == 0 ? kExitMayflyFailed : end.exit_status);
    case SessionEnd::Kind::kFailed:
      foreground_->leave_raw();
      fmt::print(stderr, "mayfly: {}\n", end.message);
      return finish(end.exit_status);
    case SessionEnd::Kind::kGone:
      return finish(fail("{}", describe_loss(machine_)));
    case SessionEnd::Kind::kBroken:
      return finish(fail("{}", end.message));
  }
}

void Exec::on_signal(int signal) {
  if (!session_ || !session_->running()) return finish(128 + signal);
  session_->send_signal(signal);
}

}  // namespace

Result<int> exec_in_machine(const ExecOptions& options) {
  if (options.tty && ::isatty(STDIN_FILENO) != 1) {
    return fail("--tty: standard input is not a terminal; leave --tty out");
  }
  const FoundMachine machine = TRY(find_machine(options.name));
  ::signal(SIGPIPE, SIG_IGN);
  Keeper keeper = TRY(Keeper::start({.terminal = options.tty ? STDIN_FILENO : -1}));
  auto loop = TRY(base::EventLoop::create());
  Exec exec(options, machine, std::move(keeper), std::move(loop));
  TRY(exec.start());
  return exec.wait();
}

}  // namespace mayfly::cli
