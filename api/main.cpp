// mayfly-vmm: one process, one virtual machine.
#include <fcntl.h>
#include <malloc.h>
#include <sys/prctl.h>

#include <CLI/CLI.hpp>
#include <array>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>

#include "api/config_json.h"
#include "base/event_loop.h"
#include "base/file.h"
#include "base/log.h"
#include "base/timeline.h"
#include "mmds/store.h"
#include "vmm/machine.h"

namespace {

using namespace mayfly;
using base::Result;

constexpr int kExitCouldNotStart = 1;
constexpr int kExitUsage = 2;
// Of --mmds-size-limit: an answer may be as large, for each connection.
constexpr std::size_t kMostMetadata = 16U << 20U;

constexpr const char* kFooter = R"(
A configuration file is one JSON object:
  { "boot-source":    { "kernel_image_path": "artifacts/vmlinux" },
    "machine-config": { "vcpu_count": 1, "mem_size_mib": 128 },
    "drives":         [ { "drive_id": "rootfs", "is_root_device": true,
                          "path_on_host": "artifacts/rootfs.ext4", "is_read_only": true } ],
    "network-interfaces": [ { "iface_id": "eth0", "host_dev_name": "tap0" } ],
    "mmds-config":    { "network_interfaces": [ "eth0" ], "version": "V2" },
    "vsock":          { "guest_cid": 3, "uds_path": "/tmp/vm.vsock" } }

A drive with "overlay_path": "vm1.overlay" only reads its path_on_host, and writes to that file, which is made if it is
missing; mayfly drive --help has more.

The guest's serial console is standard input and output; the log goes to standard error unless --log-path says otherwise.

Exit status:
  0   the guest reset the machine        10  the guest kernel panicked
  1   the machine could not be started   11  triple fault
  2   wrong command line                 12  KVM failed
)";

struct Options {
  std::string config_file;
  std::string metadata_file;
  std::size_t metadata_size_limit = mmds::kDefaultSizeLimit;
  std::string id = "anonymous-instance";
  std::string log_path;
  std::string level;
  std::string metrics_path;
  bool show_level = false;
  bool no_api = false;
  bool boot_timer = false;
  int timing_fd = -1;
};

// The exit status to leave with at once, or nothing to go on.
std::optional<int> parse_command_line(int argc, char** argv, Options& options) {
  CLI::App app{"Runs one virtual machine, described by a configuration file."};
  app.footer(kFooter);
  app.set_version_flag("--version", "mayfly-vmm v" MAYFLY_VERSION);
  app.add_option("--config-file", options.config_file, "The virtual machine, as JSON; it starts at once")
      ->required()
      ->type_name("FILE");
  app.add_option("--metadata", options.metadata_file,
                 "What the metadata service (mmds-config) serves at first, as JSON")
      ->type_name("FILE");
  app.add_option("--mmds-size-limit", options.metadata_size_limit, "The most metadata there may be, as JSON")
      ->type_name("BYTES")
      ->check(CLI::Range(std::size_t{2}, kMostMetadata))
      ->capture_default_str();
  app.add_option("--id", options.id, "Names this instance in the log: 1-64 letters, digits and -")
      ->type_name("ID");
  app.add_flag("--no-api", options.no_api, "Serve no control socket (none is served in this version)");
  app.add_flag("--boot-timer", options.boot_timer,
               "Log the boot time when the guest writes 123 to 0xc0000000");
  app.add_option("--log-path", options.log_path, "Log to this file or FIFO")->type_name("FILE");
  app.add_option("--level", options.level, "Off, Error, Warning, Info, Debug or Trace")->type_name("LEVEL");
  app.add_option("--metrics-path", options.metrics_path,
                 "Write the metrics to this file or FIFO: a JSON object a line, every minute and at the end")
      ->type_name("FILE");
  app.add_flag("--show-level", options.show_level, "Put the level into each line of the log");
  app.add_option("--timing-fd", options.timing_fd,
                 "Write \"PHASE NANOSECONDS\" lines of the start to this descriptor")
      ->type_name("FD")
      ->check(CLI::Range(0, 1 << 20));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "mayfly-vmm: {}; see mayfly-vmm --help\n", error.what());
    return kExitUsage;
  }
  return std::nullopt;
}

bool is_instance_id(std::string_view id) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
  return !id.empty() && id.size() <= 64 && id.find_first_not_of(kAllowed) == std::string_view::npos;
}

// Flags win over the file's logger section.
base::Status configure_log(const Options& options, const api::Configuration& configuration) {
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
  log.show_level = log.show_level || options.show_level;
  log.instance_id = options.id;
  return base::log::configure(log);
}

Result<api::Configuration> load_configuration(const Options& options) {
  if (!is_instance_id(options.id)) return base::fail("--id {}: not 1-64 letters, digits and -", options.id);
  const std::string text = TRY(base::read_file(options.config_file));
  Result<api::Configuration> configuration = api::parse_configuration(text);
  if (!configuration) {
    return base::fail_because(std::move(configuration).error(), "{}", options.config_file);
  }
  configuration->vm.boot_timer = options.boot_timer;
  return configuration;
}

Result<std::shared_ptr<mmds::Store>> load_metadata(const Options& options) {
  auto store = std::make_shared<mmds::Store>(options.metadata_size_limit);
  if (options.metadata_file.empty()) return store;
  const std::string text = TRY(base::read_file(options.metadata_file));
  if (auto put = store->put(text); !put) {
    return base::fail_because(std::move(put).error(), "--metadata {}", options.metadata_file);
  }
  return store;
}

// The flag wins over the file's metrics section. Nothing: none are wanted.
Result<std::unique_ptr<api::MetricsReporter>> report_metrics(const Options& options,
                                                             const api::Configuration& configuration,
                                                             base::EventLoop& loop, vmm::Machine& machine) {
  std::optional<api::MetricsConfig> metrics = configuration.metrics;
  if (!options.metrics_path.empty()) {
    if (!metrics) metrics.emplace();
    metrics->path = options.metrics_path;
  }
  if (!metrics) return nullptr;
  auto reporter = api::MetricsReporter::create(*metrics, options.id, loop,
                                               [&machine] { return machine.metric_groups(); });
  if (!reporter) return base::fail_because(std::move(reporter).error(), "the metrics");
  return reporter;
}

struct Outcome {
  int status = 0;
  int signal = 0;  // ended by this signal instead
};

Result<Outcome> run(const Options& options) {
  ::prctl(PR_SET_NAME, "vmm");
  if (options.timing_fd >= 0) {
    if (::fcntl(options.timing_fd, F_SETFD, FD_CLOEXEC) < 0) {
      return base::fail_errno(errno, "--timing-fd {}", options.timing_fd);
    }
    base::timeline::send_to(options.timing_fd);
  }
  base::timeline::mark("vmm_started");
  auto configuration = TRY(load_configuration(options));
  configuration.vm.metadata = TRY(load_metadata(options));
  TRY(configure_log(options, configuration));

  const auto loop = TRY(base::EventLoop::create());
  Outcome outcome;
  static constexpr std::array kSignals = {SIGTERM, SIGINT, SIGHUP};
  TRY(loop->add_signals(kSignals, [&](int signal) {
    outcome.signal = signal;
    loop->stop();
  }));
  ::signal(SIGPIPE, SIG_IGN);
  // In the background of a terminal, what is typed is not for the guest, and must not stop it.
  ::signal(SIGTTIN, SIG_IGN);

  const auto machine = TRY(vmm::Machine::create(configuration.vm, *loop, [&](const vmm::Exit& exit) {
    outcome.status = static_cast<int>(exit.reason);
    if (exit.reason == vmm::ExitReason::kReset) {
      base::log::info("The machine ended: {}", exit.detail);
    } else {
      base::log::error("The machine ended: {}", exit.detail);
    }
    loop->stop();
  }));
  const auto metrics = TRY(report_metrics(options, configuration, *loop, *machine));
  TRY(machine->start());
  TRY(loop->run());
  if (metrics) metrics->flush();
  return outcome;
}

}  // namespace

int main(int argc, char** argv) {
  ::mallopt(M_ARENA_MAX, 1);  // a heap for each thread would be more memory, and more to set up
  Options options;
  if (const auto status = parse_command_line(argc, argv, options)) return *status;
  const Result<Outcome> outcome = run(options);
  if (!outcome) {
    fmt::print(stderr, "mayfly-vmm: {}\n", outcome.error().message);
    return kExitCouldNotStart;
  }
  if (outcome->signal != 0) {
    // Everything of ours is undone by now; end as whoever sent the signal expects.
    ::signal(outcome->signal, SIG_DFL);
    sigset_t all;
    ::sigfillset(&all);
    ::sigprocmask(SIG_UNBLOCK, &all, nullptr);
    ::raise(outcome->signal);
  }
  return outcome->status;
}
