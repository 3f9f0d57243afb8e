#include "cli/detached.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <utility>

#include "base/event_loop.h"
#include "base/file.h"
#include "cli/console_hub.h"
#include "cli/foreground.h"
#include "cli/keeper.h"
#include "cli/machine.h"
#include "cli/machine_control.h"
#include "cli/machine_log.h"
#include "cli/machine_registry.h"
#include "cli/machine_status.h"
#include "cli/run.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;
using base::agent::Stream;

namespace {

using namespace std::chrono_literals;

// From the SIGTERM of --timeout to the end of the machine.
constexpr auto kTimeoutGrace = 2s;
// The agent gives processes 2 s after SIGTERM and 2 s after SIGKILL, and then writes to disks.
constexpr auto kPowerOffPatience = 10s;
constexpr int kReportInChild = 3;
constexpr std::size_t kLongestReport = 64U << 10U;

// What the child tells the parent: "ready NAME", or "failed STATUS MESSAGE".
constexpr std::string_view kReady = "ready ";
constexpr std::string_view kFailed = "failed ";

const char* name_of(RootMode mode) {
  switch (mode) {
    case RootMode::kScratch:
      return "scratch";
    case RootMode::kReadOnly:
      return "read-only";
    case RootMode::kWritable:
      return "writable";
  }
  return "";
}

const char* name_of(NetworkMode mode) {
  switch (mode) {
    case NetworkMode::kNone:
      return "none";
    case NetworkMode::kAuto:
      return ::geteuid() == 0 ? "tap" : "passt";
    case NetworkMode::kTap:
      return "tap";
    case NetworkMode::kPasst:
      return "passt";
  }
  return "";
}

MachineFacts facts_of(const RunOptions& options, const RunFiles& files, const MachineEntry& entry) {
  MachineFacts facts{.name = entry.name(),
                     .pid = ::getpid(),
                     .vmm_pid = 0,
                     .command = options.command,
                     .cpus = options.cpus,
                     .memory_mib = options.memory_mib,
                     .root_mode = name_of(options.root_mode),
                     .kernel = files.kernel,
                     .rootfs = files.rootfs,
                     .network = name_of(options.network),
                     .jail = jail_kind(files),
                     .publishes = {},
                     .created_ms = now_ms(),
                     .started_ms = 0};
  for (const Publish& each : options.publishes) facts.publishes.push_back(each.text);
  return facts;
}

// The child's life.
class Detached {
 public:
  Detached(const RunOptions& options, MachineFacts facts, MachineEntry entry, Keeper keeper,
           std::unique_ptr<base::EventLoop> loop, UniqueFd report, LogWriter log, LogWriter console_log)
      : options_(options),
        facts_(std::move(facts)),
        loop_(std::move(loop)),
        entry_(std::move(entry)),
        keeper_(std::move(keeper)),
        report_(std::move(report)),
        log_(std::move(log)),
        console_log_(std::move(console_log)) {}

  Status start(const RunFiles& files);
  Result<int> wait();

 private:
  Machine::Observer observer();
  Result<Machine::Request> machine_request(const RunFiles& files);
  void on_frame(const GuestFrame& frame);
  void on_message(const std::string& text);
  void on_end(Result<int> result);
  void on_ready();
  void report(const std::string& text);
  void stop(std::chrono::nanoseconds grace);
  void on_grace_over();

  const RunOptions& options_;
  MachineFacts facts_;
  std::unique_ptr<base::EventLoop> loop_;
  MachineEntry entry_;
  Keeper keeper_;
  UniqueFd report_;  // until there is nothing more to tell the parent
  LogWriter log_;
  LogWriter console_log_;
  std::string last_message_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<ConsoleHub> console_;
  std::unique_ptr<Machine> machine_;
  std::unique_ptr<base::Timer> timeout_timer_;
  std::unique_ptr<base::Timer> grace_timer_;
  std::optional<std::chrono::steady_clock::time_point> grace_deadline_;
  std::optional<Result<int>> result_;
};

Status Detached::start(const RunFiles& files) {
  TRY(entry_.write(facts_));
  TRY(loop_->add_signals(kEndingSignals, [this](int) { stop(kDefaultStopGrace); }));
  // A parent that does not wait for us any more was ended by somebody who thought better of it.
  TRY(loop_->add(report_.get(), 0, [this](std::uint32_t) { on_end(fail("mayfly run was ended")); }));
  grace_timer_ = TRY(base::Timer::create(*loop_, [this] { on_grace_over(); }));
  timeout_timer_ = TRY(base::Timer::create(*loop_, [this] {
    machine_->override_status(kExitTimeout);
    stop(kTimeoutGrace);
  }));
  if (options_.timeout) timeout_timer_->set(*options_.timeout);
  Machine::Request request = TRY(machine_request(files));
  machine_ = TRY(Machine::create(*loop_, keeper_, std::move(request), observer()));
  control_ = TRY(ControlServer::create(*loop_, entry_.path(),
                                       {.on_stop = [this](std::chrono::milliseconds grace) { stop(grace); },
                                        .on_kill = [this] { on_end(128 + SIGKILL); }}));
  facts_.vmm_pid = machine_->vmm().pid();
  return entry_.write(facts_);
}

Result<Machine::Request> Detached::machine_request(const RunFiles& files) {
  std::array<int, 2> typed{};
  if (::pipe2(typed.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  UniqueFd console_input(typed[0]);
  UniqueFd typing(typed[1]);
  if (::fcntl(typing.get(), F_SETFL, O_NONBLOCK) < 0) return fail_errno(errno, "set up a pipe");
  console_ = TRY(ConsoleHub::create(*loop_, entry_.path(), std::move(typing)));
  const auto nowhere = [] { return base::open_file("/dev/null", O_RDWR); };
  return Machine::Request{
      .options = options_,
      .files = files,
      .folder = entry_.path(),
      .start = start_request(options_),
      .streams = {.input = ByteEnd::own(TRY(nowhere())),
                  .output = ByteEnd::own(TRY(nowhere())),
                  .errors = ByteEnd::own(TRY(nowhere()))},
      .console = {.output = ByteEnd::own(TRY(nowhere())), .input = std::move(console_input)},
      .api = true};
}

Machine::Observer Detached::observer() {
  return {.on_frame = [this](const GuestFrame& frame) { on_frame(frame); },
          .on_message = [this](const std::string& text) { on_message(text); },
          .on_output =
              [this](Stream stream, std::span<const std::byte> bytes) {
                log_.add(stream == Stream::kStdout ? LogStream::kOutput : LogStream::kErrors, bytes);
              },
          .on_console =
              [this](std::string_view text) {
                console_log_.add(LogStream::kConsole, text);
                console_->show(text);
              },
          .on_end = [this](Result<int> result) { on_end(std::move(result)); }};
}

Result<int> Detached::wait() {
  TRY(loop_->run());
  return *result_;
}

void Detached::on_frame(const GuestFrame& frame) {
  const bool idle = options_.command.empty() && std::holds_alternative<HelloFrame>(frame);
  if (idle || std::holds_alternative<StartedFrame>(frame)) on_ready();
}

void Detached::on_ready() {
  facts_.started_ms = now_ms();
  if (const Status written = entry_.write(facts_); !written) return on_end(std::unexpected(written.error()));
  report(fmt::format("{}{}", kReady, entry_.name()));
  // From now on nobody reads what we print.
  const auto null = base::open_file("/dev/null", O_RDWR);
  if (null) ::dup2(null->get(), STDERR_FILENO);
}

void Detached::report(const std::string& text) {
  if (!report_.valid()) return;
  loop_->remove(report_.get());
  [[maybe_unused]] const Status told = base::write_all(report_.get(), text);
  report_.reset();
}

void Detached::on_message(const std::string& text) {
  last_message_ = text;
  log_.add(LogStream::kNotice, text + "\n");
}

void Detached::on_end(Result<int> result) {
  if (result_) return;
  if (result) {
    report(fmt::format("{}{} {}", kFailed, *result,
                       last_message_.empty() ? "the machine was ended before it was up" : last_message_));
  } else {
    report(fmt::format("{}{} {}", kFailed, kExitMayflyFailed, result.error().message));
  }
  if (control_) control_->tell_end(result);
  result_ = std::move(result);
  loop_->stop();
}

void Detached::stop(std::chrono::nanoseconds grace) {
  if (result_) return;
  if (!machine_ || !machine_->booted()) return on_end(128 + SIGTERM);
  Session& session = machine_->session();
  if (session.idle()) return machine_->power_off(0, kPowerOffPatience);
  if (session.running()) session.send_signal(SIGTERM);
  // Of several who ask, the one who is least patient counts.
  const auto deadline = std::chrono::steady_clock::now() + grace;
  if (grace_deadline_ && *grace_deadline_ <= deadline) return;
  grace_deadline_ = deadline;
  grace_timer_->set(grace);
}

void Detached::on_grace_over() {
  machine_->power_off(128 + SIGKILL, kPowerOffPatience);
}

// ---- Parent and child ----

// Nothing of the caller's is to be held up by us: not its descriptors, its terminal, or its folder.
Result<UniqueFd> leave_caller(UniqueFd report) {
  ::setsid();
  ::prctl(PR_SET_NAME, "mayfly-machine");
  for (const int each : kEndingSignals) ::signal(each, SIG_DFL);
  ::signal(SIGPIPE, SIG_IGN);
  if (::chdir("/") < 0) return fail_errno(errno, "change to /");
  const int inherited = report.release();
  if (inherited != kReportInChild && ::dup2(inherited, kReportInChild) < 0) {
    return fail_errno(errno, "duplicate a file descriptor");
  }
  ::syscall(SYS_close_range, kReportInChild + 1, ~0U, 0);
  UniqueFd ours(kReportInChild);
  ::fcntl(ours.get(), F_SETFD, FD_CLOEXEC);
  const UniqueFd null = TRY(base::open_file("/dev/null", O_RDWR));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) ::dup2(null.get(), fd);
  return ours;
}

Result<int> keep(RunOptions options, const RunFiles& files, UniqueFd report) {
  const auto tell = [fd = report.get()](const base::Error& error) {
    static_cast<void>(base::write_all(fd, fmt::format("{}{} {}", kFailed, kExitMayflyFailed, error.message)));
  };
  const auto run = [&]() -> Result<int> {
    MachineEntry entry = TRY(MachineEntry::create(options.name));
    options.name = entry.name();
    Keeper keeper = TRY(Keeper::start({.folder = entry.path(), .lock = entry.lock()}));
    auto loop = TRY(base::EventLoop::create());
    LogWriter log = TRY(LogWriter::create(entry.path(), kCommandLog));
    LogWriter console_log = TRY(LogWriter::create(entry.path(), kConsoleLog));
    MachineFacts facts = facts_of(options, files, entry);
    UniqueFd own(::fcntl(report.get(), F_DUPFD_CLOEXEC, 3));
    if (!own.valid()) return fail_errno(errno, "duplicate a file descriptor");
    Detached detached(options, std::move(facts), std::move(entry), std::move(keeper), std::move(loop),
                      std::move(own), std::move(log), std::move(console_log));
    TRY(detached.start(files));
    report.reset();
    return detached.wait();
  };
  Result<int> result = run();
  if (!result && report.valid()) tell(result.error());
  return result;
}

Result<int> parse_report(const std::string& text) {
  std::string_view rest = text;
  if (rest.starts_with(kReady)) {
    fmt::print("{}\n", rest.substr(kReady.size()));
    return 0;
  }
  int status = kExitMayflyFailed;
  if (rest.starts_with(kFailed)) {
    rest.remove_prefix(kFailed.size());
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), status);
    if (error == std::errc{}) rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
    if (rest.starts_with(' ')) rest.remove_prefix(1);
  }
  if (rest.empty()) return fail("what was to keep the machine ended without a word");
  if (status == kExitMayflyFailed) return fail("{}", rest);
  fmt::print(stderr, "mayfly: {}\n", rest);
  return status;
}

std::string read_report(const UniqueFd& fd) {
  std::string text;
  std::array<char, 4096> buffer;
  while (text.size() < kLongestReport) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return text;
}

}  // namespace

Result<int> run_detached(const RunOptions& options, const RunFiles& files) {
  // Paths are the caller's, whose folder we leave.
  const auto absolute = [](const std::string& path) {
    std::error_code error;  // then it is as good as it was
    const auto whole = std::filesystem::absolute(path, error);
    return error ? path : whole.string();
  };
  const RunFiles found{.vmm = absolute(files.vmm),
                       .jailer = files.jailer.empty() ? "" : absolute(files.jailer),
                       .kernel = absolute(files.kernel),
                       .rootfs = absolute(files.rootfs)};
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  std::fflush(nullptr);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "fork");
  if (pid > 0) {
    writer.reset();
    return parse_report(read_report(reader));
  }
  reader.reset();
  Result<UniqueFd> report = leave_caller(std::move(writer));
  if (!report) ::_exit(kExitMayflyFailed);
  const Result<int> result = keep(options, found, std::move(*report));
  ::_exit(result ? *result : kExitMayflyFailed);
}

}  // namespace mayfly::cli
