#include "cli/run.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/file.h"
#include "base/timeline.h"
#include "cli/guest_network.h"
#include "cli/keeper.h"
#include "cli/listener.h"
#include "cli/runtime_folder.h"
#include "cli/session.h"
#include "cli/terminal.h"
#include "cli/timing.h"
#include "cli/vmm_process.h"
#include "cli/vmm_report.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

using namespace std::chrono_literals;

// From the SIGTERM of --timeout to the end of the machine.
constexpr auto kTimeoutGrace = 2s;
// So many signals that should end the command, within this time, end the machine.
constexpr std::size_t kStubbornSignals = 3;
constexpr auto kStubbornWindow = 2s;
// An agent that went away leaves a machine that is about to end, and whose end says more.
constexpr auto kLastWordsPatience = 5s;
constexpr auto kShutdownPatience = 60s;

constexpr std::array kEndingSignals = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};

// Signals that we handle: not those that whoever started us has us ignore (nohup, a shell's background job).
std::vector<int> handled_signals() {
  std::vector<int> signals(kEndingSignals.begin(), kEndingSignals.end());
  signals.insert(signals.end(), {SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT});
  std::erase_if(signals, [](int signal) {
    struct sigaction action {};
    return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  });
  return signals;
}

StartRequest start_request(const RunOptions& options) {
  StartRequest request{.tty = options.tty,
                       .uid = options.uid,
                       .gid = options.gid.value_or(base::agent::kGroupOfUser),
                       .directory = options.directory,
                       .arguments = options.command,
                       .environment = options.environment};
  if (!options.tty) return request;
  const WindowSize size = window_size(STDIN_FILENO);
  request.rows = size.rows;
  request.columns = size.columns;
  const bool has_term = std::ranges::any_of(
      options.environment, [](const std::string& variable) { return variable.starts_with("TERM="); });
  const char* const term = std::getenv("TERM");
  if (!has_term && term != nullptr) request.environment.push_back(fmt::format("TERM={}", term));
  return request;
}

class Run {
 public:
  Run(const RunOptions& options, RuntimeFolder folder, Keeper keeper, std::unique_ptr<base::EventLoop> loop,
      std::uint64_t start_ns)
      : options_(options),
        loop_(std::move(loop)),
        folder_(std::move(folder)),
        keeper_(std::move(keeper)),
        timing_(start_ns),
        start_ns_(start_ns) {}

  Status start(const RunFiles& files);
  // Until everything is over.
  Result<int> wait();

 private:
  Status start_session();
  Status start_timers();
  void on_frame(const GuestFrame& frame);
  void on_session_end(const SessionEnd& end);
  void on_vmm_end(const VmmEnd& end);
  void on_network_loss(const std::string& why);
  void on_signal(int signal);
  void on_timeout();
  [[nodiscard]] bool too_stubborn();
  // The command is over: lets a guest that writes to the image do so to the end, then finish().
  void conclude(int status);
  void finish(Result<int> result);
  [[nodiscard]] std::string console_tail() const {
    return options_.console ? std::string() : vmm_->console().text();
  }

  const RunOptions& options_;
  std::unique_ptr<base::EventLoop> loop_;
  RuntimeFolder folder_;
  Keeper keeper_;
  Timing timing_;
  std::uint64_t start_ns_;
  std::unique_ptr<GuestNetwork> network_;
  std::unique_ptr<VmmProcess> vmm_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<base::Timer> boot_timer_;
  std::unique_ptr<base::Timer> timeout_timer_;
  std::unique_ptr<base::Timer> patience_timer_;
  std::optional<RawTerminal> terminal_;

  bool booted_ = false;
  bool timed_out_ = false;
  bool output_lost_ = false;
  std::optional<VmmEnd> vmm_end_;
  std::optional<int> concluding_;  // with this status
  std::vector<std::chrono::steady_clock::time_point> ending_signals_;
  std::optional<Result<int>> result_;
};

Status Run::start(const RunFiles& files) {
  TRY(loop_->add_signals(handled_signals(), [this](int signal) { on_signal(signal); }));
  if (options_.network != NetworkMode::kNone) {
    network_ = TRY(GuestNetwork::create(*loop_, options_, folder_.path(), keeper_,
                                        [this](const std::string& why) { on_network_loss(why); }));
  }
  const std::string vsock = folder_.path() + "/vsock";
  listener_ =
      TRY(Listener::create(*loop_, fmt::format("{}_{}", vsock, base::agent::kHostPort), [this](UniqueFd fd) {
        session_->add_stream(std::move(fd));
        if (!session_->wants_streams()) listener_.reset();
      }));
  const VmmProcess::Request request{
      .executable = files.vmm,
      .configuration = TRY(vmm_configuration(options_, files, vsock, network_ ? &network_->plan() : nullptr)),
      .timing = options_.timing != TimingReport::kNone};
  ByteEnd console = options_.console ? TRY(ByteEnd::standard(STDERR_FILENO, ByteEnd::Direction::kWrite, true))
                                     : ByteEnd::own(TRY(base::open_file("/dev/null", O_WRONLY)));
  vmm_ = TRY(VmmProcess::spawn(
      *loop_, request, std::move(console),
      {.on_phase = [this](std::string_view phase, std::uint64_t ns) { timing_.add_vmm_phase(phase, ns); },
       .on_end = [this](const VmmEnd& end) { on_vmm_end(end); }}));
  TRY(keeper_.watch_over(vmm_->pidfd()));
  TRY(start_session());
  return start_timers();
}

Status Run::start_session() {
  using Direction = ByteEnd::Direction;
  const StartRequest request = start_request(options_);
  StandardStreams streams;
  streams.input = TRY(ByteEnd::standard(STDIN_FILENO, Direction::kRead, options_.tty));
  streams.output = TRY(ByteEnd::standard(STDOUT_FILENO, Direction::kWrite, false));
  streams.errors = TRY(ByteEnd::standard(STDERR_FILENO, Direction::kWrite, true));
  session_ = TRY(Session::create(*loop_, std::move(streams), request,
                                 {.on_frame = [this](const GuestFrame& frame) { on_frame(frame); },
                                  .on_local_error =
                                      [this](const std::string& message) {
                                        output_lost_ = true;
                                        fmt::print(stderr, "mayfly: {}\n", message);
                                      },
                                  .on_end = [this](const SessionEnd& end) { on_session_end(end); }}));
  return {};
}

Status Run::start_timers() {
  boot_timer_ = TRY(base::Timer::create(*loop_, [this] {
    if (!booted_) finish(fail("{}", describe_boot_timeout(options_, console_tail())));
  }));
  boot_timer_->set(options_.boot_timeout);
  timeout_timer_ = TRY(base::Timer::create(*loop_, [this] { on_timeout(); }));
  if (options_.timeout) {
    const std::chrono::nanoseconds gone(base::timeline::now_ns() - start_ns_);
    timeout_timer_->set(*options_.timeout - gone);
  }
  return {};
}

Result<int> Run::wait() {
  TRY(loop_->run());
  terminal_.reset();
  const int status = *result_ ? **result_ : kExitMayflyFailed;
  if (options_.timing == TimingReport::kTable) fmt::print(stderr, "{}", timing_.as_table());
  if (options_.timing == TimingReport::kJson) fmt::print(stderr, "{}", timing_.as_json(status));
  return *result_;
}

void Run::on_frame(const GuestFrame& frame) {
  timing_.add_guest_frame(frame, base::timeline::now_ns());
  if (std::holds_alternative<HelloFrame>(frame)) {
    booted_ = true;
    boot_timer_->cancel();
  }
  // Not earlier: until then Ctrl-C ends a machine that does not get that far.
  if (std::holds_alternative<StartedFrame>(frame) && options_.tty && !terminal_) {
    Result<RawTerminal> terminal = RawTerminal::enter(STDIN_FILENO);
    if (!terminal) return finish(std::unexpected(terminal.error()));
    terminal_.emplace(std::move(*terminal));
  }
}

void Run::on_session_end(const SessionEnd& end) {
  switch (end.kind) {
    case SessionEnd::Kind::kExited:
      conclude(output_lost_ && end.exit_status == 0 ? kExitMayflyFailed : end.exit_status);
      break;
    case SessionEnd::Kind::kFailed:
      fmt::print(stderr, "mayfly: {}\n", end.message);
      conclude(end.exit_status);
      break;
    case SessionEnd::Kind::kGone:
      if (concluding_) break;  // as it was asked to
      if (vmm_end_) {
        finish(fail("{}", describe_end(*vmm_end_, options_, booted_, vmm_->errors().text(), console_tail())));
        break;
      }
      if (auto timer =
              base::Timer::create(*loop_, [this, message = end.message] { finish(fail("{}", message)); })) {
        patience_timer_ = std::move(*timer);
        patience_timer_->set(kLastWordsPatience);
        break;
      }
      [[fallthrough]];
    case SessionEnd::Kind::kBroken:
      finish(fail("{}", end.message));
      break;
  }
}

void Run::on_vmm_end(const VmmEnd& end) {
  vmm_end_ = end;
  if (concluding_) {
    if (end.signal == 0 && end.exit_status == 0) return finish(*concluding_);
    return finish(fail("{}", describe_end(end, options_, booted_, vmm_->errors().text(), console_tail())));
  }
  // The agent's going was noticed before, and only the reason was waited for.
  if (patience_timer_) {
    return finish(fail("{}", describe_end(end, options_, booted_, vmm_->errors().text(), console_tail())));
  }
  session_->guest_ended();
}

// Before the guest is up it is a run that cannot be as it was asked for; after that the guest sees its link
// go down.
void Run::on_network_loss(const std::string& why) {
  if (!booted_ && !vmm_end_) return finish(fail("--net: {}", why));
  if (!concluding_ && !vmm_end_) fmt::print(stderr, "mayfly: the guest has no network any more: {}\n", why);
}

void Run::conclude(int status) {
  if (timed_out_) status = kExitTimeout;
  if (options_.root_mode != RootMode::kWritable) return finish(status);
  if (concluding_) return;
  concluding_ = status;
  if (vmm_end_) return on_vmm_end(*vmm_end_);
  session_->request_shutdown();
  auto timer = base::Timer::create(*loop_, [this] {
    finish(fail("the guest did not finish writing to its root file system: check the image with e2fsck"));
  });
  if (!timer) return finish(std::unexpected(timer.error()));
  patience_timer_ = std::move(*timer);
  patience_timer_->set(kShutdownPatience);
}

void Run::on_timeout() {
  // The second time is the end of the grace.
  if (std::exchange(timed_out_, true) || !session_->running())
    return booted_ ? conclude(kExitTimeout) : finish(kExitTimeout);
  session_->send_signal(SIGTERM);
  timeout_timer_->set(kTimeoutGrace);
}

bool Run::too_stubborn() {
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(ending_signals_, [&](auto at) { return now - at > kStubbornWindow; });
  ending_signals_.push_back(now);
  return ending_signals_.size() >= kStubbornSignals;
}

void Run::on_signal(int signal) {
  if (signal == SIGCONT && terminal_) terminal_->reenter();
  if (signal == SIGCONT || signal == SIGWINCH) {
    const WindowSize size = window_size(STDIN_FILENO);
    if (terminal_) session_->resize(size.rows, size.columns);
    return;
  }
  const bool ending = std::ranges::find(kEndingSignals, signal) != kEndingSignals.end();
  if (ending && too_stubborn()) return finish(128 + signal);
  if (concluding_) return;  // the image is being written
  if (!session_->running()) return finish(128 + signal);
  session_->send_signal(signal);
}

void Run::finish(Result<int> result) {
  if (!result_) result_ = std::move(result);
  loop_->stop();
}

}  // namespace

Result<int> run_in_vm(const RunOptions& options, const RunFiles& files, std::uint64_t start_ns) {
  if (options.tty && ::isatty(STDIN_FILENO) != 1) {
    return fail("--tty: standard input is not a terminal; leave --tty out");
  }
  ::signal(SIGPIPE, SIG_IGN);
  RuntimeFolder folder = TRY(RuntimeFolder::create());
  Keeper keeper = TRY(Keeper::start(folder.path(), options.tty ? STDIN_FILENO : -1));
  auto loop = TRY(base::EventLoop::create());
  Run run(options, std::move(folder), std::move(keeper), std::move(loop), start_ns);
  TRY(run.start(files));
  return run.wait();
}

}  // namespace mayfly::cli
