#include "cli/run.h"

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/event_loop.h"
#include "base/file.h"
#include "base/timeline.h"
#include "cli/foreground.h"
#include "cli/keeper.h"
#include "cli/machine.h"
#include "cli/runtime_folder.h"
#include "cli/timing.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;

namespace {

using namespace std::chrono_literals;

// From the SIGTERM of --timeout to the end of the machine.
constexpr auto kTimeoutGrace = 2s;

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
  Status start_timeout();
  Machine::Observer observer();
  void on_frame(const GuestFrame& frame);
  void on_signal(int signal);
  void on_timeout();
  void finish(Result<int> result);

  const RunOptions& options_;
  std::unique_ptr<base::EventLoop> loop_;
  RuntimeFolder folder_;
  Keeper keeper_;
  Timing timing_;
  std::uint64_t start_ns_;
  std::unique_ptr<Foreground> foreground_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<base::Timer> timeout_timer_;
  bool timed_out_ = false;
  std::optional<Result<int>> result_;
};

Status Run::start(const RunFiles& files) {
  foreground_ =
      TRY(Foreground::create(*loop_, {.session = [this] { return machine_ ? &machine_->session() : nullptr; },
                                      .on_signal = [this](int signal) { on_signal(signal); },
                                      .on_stubborn = [this](int signal) { finish(128 + signal); }}));
  Machine::Request request{
      .options = options_,
      .files = files,
      .folder = folder_.path(),
      .start = start_request(options_),
      .streams = TRY(standard_streams(options_.tty, true)),
      .console = {.output = options_.console
                                ? TRY(ByteEnd::standard(STDERR_FILENO, ByteEnd::Direction::kWrite, true))
                                : ByteEnd::own(TRY(base::open_file("/dev/null", O_WRONLY)))},
      .timing = options_.timing != TimingReport::kNone};
  machine_ = TRY(Machine::create(*loop_, keeper_, std::move(request), observer()));
  return start_timeout();
}

Machine::Observer Run::observer() {
  return {.on_phase = [this](std::string_view phase, std::uint64_t ns) { timing_.add_vmm_phase(phase, ns); },
          .on_frame = [this](const GuestFrame& frame) { on_frame(frame); },
          .on_message = [](const std::string& text) { fmt::print(stderr, "mayfly: {}\n", text); },
          .on_end = [this](Result<int> result) { finish(std::move(result)); }};
}

Status Run::start_timeout() {
  timeout_timer_ = TRY(base::Timer::create(*loop_, [this] { on_timeout(); }));
  if (options_.timeout) {
    const std::chrono::nanoseconds gone(base::timeline::now_ns() - start_ns_);
    timeout_timer_->set(*options_.timeout - gone);
  }
  return {};
}

Result<int> Run::wait() {
  TRY(loop_->run());
  foreground_->leave_raw();
  const int status = *result_ ? **result_ : kExitMayflyFailed;
  if (options_.timing == TimingReport::kTable) fmt::print(stderr, "{}", timing_.as_table());
  if (options_.timing == TimingReport::kJson) fmt::print(stderr, "{}", timing_.as_json(status));
  return *result_;
}

void Run::on_frame(const GuestFrame& frame) {
  timing_.add_guest_frame(frame, base::timeline::now_ns());
  // Not earlier: until then Ctrl-C ends a machine that does not get that far.
  if (!std::holds_alternative<StartedFrame>(frame) || !options_.tty) return;
  if (const Status raw = foreground_->enter_raw(); !raw) finish(std::unexpected(raw.error()));
}

void Run::on_timeout() {
  // The second time is the end of the grace.
  const bool again = std::exchange(timed_out_, true);
  machine_->override_status(kExitTimeout);
  if (again || !machine_->session().running())
    return machine_->booted() ? machine_->conclude(kExitTimeout) : finish(kExitTimeout);
  machine_->session().send_signal(SIGTERM);
  timeout_timer_->set(kTimeoutGrace);
}

void Run::on_signal(int signal) {
  if (machine_->concluding()) return;  // the image is being written
  if (!machine_->session().running()) return finish(128 + signal);
  machine_->session().send_signal(signal);
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
  Keeper keeper = TRY(Keeper::start({.folder = folder.path(), .terminal = options.tty ? STDIN_FILENO : -1}));
  auto loop = TRY(base::EventLoop::create());
  Run run(options, std::move(folder), std::move(keeper), std::move(loop), start_ns);
  TRY(run.start(files));
  return run.wait();
}

}  // namespace mayfly::cli
