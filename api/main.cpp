// mayfly-vmm: one process, one virtual machine.
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <optional>
#include <string>

#include "api/config_json.h"
#include "api/confinement.h"
#include "api/control_queue.h"
#include "api/controller.h"
#include "api/fault.h"
#include "api/http_server.h"
#include "api/notify.h"
#include "api/options.h"
#include "api/router.h"
#include "base/event_loop.h"
#include "base/file.h"
#include "base/log.h"
#include "base/thread_name.h"
#include "base/timeline.h"
#include "mmds/store.h"
#include "vmm/machine.h"

namespace {

using namespace mayfly;
using base::Result;

constexpr int kExitCouldNotStart = 1;

// Flags win over the file's logger section.
base::Status configure_log(const api::Options& options, const api::Configuration& configuration) {
  base::log::Options log = configuration.logger.value_or(base::log::Options{});
  if (!configuration.logger && options.log_path.empty() && options.level.empty()) {
    log.level = base::log::Level::kWarning;
  }
  if (!options.log_path.empty()) log.path = options.log_path;
  if (!options.level.empty()) {
    const auto level = base::log::parse_level(options.level);
    if (!level) return base::fail("--level {}: not Off, Error, Warning, Info, Debug or Trace", options.level);
    log.level = *level;
  }
  if (!options.module.empty()) log.module = options.module;
  log.show_level = log.show_level || options.show_level;
  log.show_origin = log.show_origin || options.show_log_origin;
  log.instance_id = options.id;
  return base::log::configure(log);
}

// Without --config-file: nothing yet.
Result<api::Configuration> load_configuration(const api::Options& options) {
  if (options.config_file.empty()) return api::Configuration{};
  const std::string text = TRY(base::read_file(options.config_file));
  Result<api::Configuration> configuration = api::parse_configuration(text);
  if (!configuration) {
    return base::fail_because(std::move(configuration).error(), "{}", options.config_file);
  }
  return configuration;
}

Result<std::shared_ptr<mmds::Store>> load_metadata(const api::Options& options) {
  auto store = std::make_shared<mmds::Store>(options.metadata_size_limit.value_or(options.largest_body));
  if (options.metadata_file.empty()) return store;
  const std::string text = TRY(base::read_file(options.metadata_file));
  if (auto put = store->put(text); !put) {
    return base::fail_because(std::move(put).error(), "--metadata {}", options.metadata_file);
  }
  return store;
}

std::uint64_t microseconds(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec) / 1000U;
}

// Since the jailer began, if there was one.
void log_startup(const api::Options& options) {
  if (options.start_time_us) {
    base::log::info("Process start: {} us", microseconds(CLOCK_MONOTONIC) - *options.start_time_us);
  }
  if (options.start_time_cpu_us) {
    base::log::info("Process start: {} CPU us", microseconds(CLOCK_PROCESS_CPUTIME_ID) -
                                                    *options.start_time_cpu_us + options.parent_cpu_time_us);
  }
}

struct Outcome {
  int status = 0;
  int signal = 0;  // ended by this signal instead
};

// As whoever sent the signal expects. Not by raise(3) and sigprocmask(2): the filter would have to allow
// those besides what kicks vCPUs and looks at the log. Returns where the signal does not end this process.
void die_of(int signal, pid_t process) {
  ::syscall(SYS_tgkill, process, process, signal);  // to this thread, the first, which has blocked it
  sigset_t none;
  ::sigemptyset(&none);
  constexpr timespec kSoon{.tv_sec = 1, .tv_nsec = 0};
  ::ppoll(nullptr, 0, &kSoon, &none);
}

// Ends the loop, with the outcome, at these signals.
base::Status end_at_signals(base::EventLoop& loop, Outcome& outcome) {
  static constexpr std::array kSignals = {SIGTERM, SIGINT, SIGHUP};
  for (const int signal : kSignals) ::signal(signal, SIG_DFL);  // what die_of() ends with
  TRY(loop.add_signals(kSignals, [&](int signal) {
    outcome.signal = signal;
    loop.stop();
  }));
  ::signal(SIGPIPE, SIG_IGN);
  // In the background of a terminal, what is typed is not for the guest, and must not stop it.
  ::signal(SIGTTIN, SIG_IGN);
  return {};
}

void log_end(const vmm::Exit& exit) {
  if (exit.reason == vmm::ExitReason::kReset) {
    base::log::info("The machine ended: {}", exit.detail);
  } else {
    base::log::error("The machine ended: {}", exit.detail);
  }
}

// The control socket's handler: on its thread.
api::HttpResponse answer(api::ControlQueue& queue, const api::HttpRequest& request) {
  auto task = api::route(request.method, request.path, request.body);
  const auto answer = task ? queue.call(std::move(*task)) : std::unexpected(std::move(task).error());
  if (!answer) {
    base::log::warning("{} {} was refused: {}", request.method, request.path, answer.error().message);
    return {.status = 400, .content = api::fault(answer.error().message)};
  }
  base::log::debug("{} {}", request.method, request.path);
  if (answer->content.empty()) return {.status = 204};
  return {.status = 200, .content = answer->content, .type = std::string(answer->type)};
}

base::Status follow_timing(int fd) {
  if (fd < 0) return {};
  if (::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) return base::fail_errno(errno, "--timing-fd {}", fd);
  base::timeline::send_to(fd);
  return {};
}

Result<Outcome> run(const api::Options& options) {
  base::set_thread_name("vmm");
  TRY(follow_timing(options.timing_fd));
  base::timeline::mark("vmm_started");
  api::Configuration configuration = TRY(load_configuration(options));
  auto metadata = TRY(load_metadata(options));
  TRY(configure_log(options, configuration));
  const api::Confinement confinement = TRY(api::Confinement::create(options));
  using Thread = jailer::seccomp::Thread;
  const api::Notifier notifier = TRY(api::Notifier::create(options.notify_fd));
  configuration.vm.kvm_path = options.kvm_path;
  configuration.vm.boot_timer = options.boot_timer;
  configuration.vm.confine_vcpu = [&confinement] { return confinement.confine(Thread::kVcpu); };
  configuration.vm.on_guest_ready = [&notifier] { notifier.tell("guest", false); };
  // The flag wins over the file's section.
  std::optional<api::MetricsConfig> metrics = std::exchange(configuration.metrics, std::nullopt);
  if (!options.metrics_path.empty()) {
    if (!metrics) metrics.emplace();
    metrics->path = options.metrics_path;
  }

  const auto loop = TRY(base::EventLoop::create());
  Outcome outcome;
  TRY(end_at_signals(*loop, outcome));
  // Once the machine is made: what is opened and started after that must have been before, with the filter
  // on.
  std::function<base::Status()> open_socket;
  const auto before_run = [&]() -> base::Status {
    TRY(open_socket());
    return confinement.confine(Thread::kVmm);
  };
  api::Controller controller(
      options.id, std::move(configuration), std::move(metadata), *loop,
      [&](const vmm::Exit& exit) {
        outcome.status = static_cast<int>(exit.reason);
        log_end(exit);
        loop->stop();
      },
      before_run);
  if (metrics) TRY(controller.put_metrics(std::move(*metrics)));
  const bool serves = !options.api_socket.empty();
  api::ControlQueue queue(*loop, controller);
  std::unique_ptr<api::HttpServer> server;
  open_socket = [&]() -> base::Status {
    if (!serves || server) return {};
    server = TRY(api::HttpServer::create(
        options.api_socket, options.largest_body,
        [&](const api::HttpRequest& request) { return answer(queue, request); },
        [&] { return confinement.confine(Thread::kApi); }));
    return {};
  };
  if (options.config_file.empty()) {
    TRY(open_socket());
  } else {
    TRY(controller.start());
    notifier.tell("started", !serves);
  }
  if (serves) notifier.tell("socket", true);
  log_startup(options);
  TRY(loop->run());
  queue.close();
  return outcome;
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 1);  // a heap for each thread would be more memory, and more to set up
  const pid_t process = ::getpid();
  api::Options options;
  if (const auto status = api::parse_command_line(argc, argv, options)) return *status;
  const Result<Outcome> outcome = run(options);
  if (!outcome) {
    fmt::print(stderr, "mayfly-vmm: {}\n", outcome.error().message);
    return kExitCouldNotStart;
  }
  if (outcome->signal != 0) {
    // Everything of ours is undone by now.
    die_of(outcome->signal, process);
  }
  return outcome->status;
}
