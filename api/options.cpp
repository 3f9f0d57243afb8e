#include "api/options.h"

#include <CLI/CLI.hpp>
#include <string_view>

namespace mayfly::api {

namespace {

constexpr int kExitUsage = 2;
// An answer of the metadata service may be as large, for each connection; and a body, for each client.
constexpr std::size_t kMostBytes = 16U << 20U;

constexpr const char* kFooter = R"(
With --api-sock, clients configure and start the machine by HTTP, as Firecracker's do; docs/api.md has the operations:
  curl --unix-socket vm.sock -X PUT http://localhost/boot-source -d '{"kernel_image_path": "artifacts/vmlinux"}'
  curl --unix-socket vm.sock -X PUT http://localhost/actions -d '{"action_type": "InstanceStart"}'

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
                                         13  a thread made a system call that its filter does not allow
)";

bool is_instance_id(std::string_view id) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";
  return !id.empty() && id.size() <= 64 && id.find_first_not_of(kAllowed) == std::string_view::npos;
}

void add_control_options(CLI::App& app, Options& options) {
  app.add_option("--api-sock", options.api_socket, "Serve the control socket here, until the process ends")
      ->type_name("PATH");
  app.add_option("--config-file", options.config_file, "The virtual machine, as JSON; it starts at once")
      ->type_name("FILE");
  app.add_flag("--no-api", options.no_api, "Serve no control socket; needs --config-file");
  app.add_option("--id", options.id, "Names this instance: 1-64 letters, digits and -")
      ->type_name("ID")
      ->check(
          [](const std::string& id) { return is_instance_id(id) ? "" : "not 1-64 letters, digits and -"; })
      ->capture_default_str();
  app.add_option("--http-api-max-payload-size", options.largest_body, "The largest body of a request")
      ->type_name("BYTES")
      ->check(CLI::Range(std::size_t{2}, kMostBytes))
      ->capture_default_str();
  app.add_option("--metadata", options.metadata_file,
                 "What the metadata service (mmds-config) serves at first, as JSON")
      ->type_name("FILE");
  app.add_option("--mmds-size-limit", options.metadata_size_limit,
                 "The most metadata there may be, as JSON [as --http-api-max-payload-size]")
      ->type_name("BYTES")
      ->check(CLI::Range(std::size_t{2}, kMostBytes));
  app.add_option("--kvm", options.kvm_path,
                 "The KVM device. This and paths of drives, kernels and other files, and host_dev_name, may "
                 "be /dev/fd/N: a "
                 "descriptor this process was started with")
      ->type_name("PATH")
      ->capture_default_str();
  app.add_flag("--boot-timer", options.boot_timer,
               "Log the boot time when the guest writes 123 to 0xc0000000");
  app.add_option(
         "--notify-fd", options.notify_fd,
         "Write a line to this descriptor for each of: socket (it answers), started (the machine runs), "
         "guest (it told the boot timer)")
      ->type_name("FD")
      ->check(CLI::Range(0, 1 << 20));
}

void add_log_options(CLI::App& app, Options& options) {
  app.add_option("--log-path", options.log_path, "Log to this file or FIFO")->type_name("FILE");
  app.add_option("--level", options.level, "Off, Error, Warning, Info, Debug or Trace")->type_name("LEVEL");
  app.add_option("--module", options.module,
                 "Log only what comes from this part of the source: vmm, virtio::block")
      ->type_name("PART");
  app.add_flag("--show-level", options.show_level, "Put the level into each line of the log");
  app.add_flag("--show-log-origin", options.show_log_origin, "Put the place in the source into each line");
  app.add_option("--metrics-path", options.metrics_path,
                 "Write the metrics to this file or FIFO: a JSON object a line, every minute and at the end")
      ->type_name("FILE");
  app.add_option("--timing-fd", options.timing_fd,
                 "Write \"PHASE NANOSECONDS\" lines of the start to this descriptor")
      ->type_name("FD")
      ->check(CLI::Range(0, 1 << 20));
}

void add_filter_options(CLI::App& app, Options& options) {
  auto* const own =
      app.add_option("--seccomp-filter", options.seccomp_filter,
                     "Use these system call filters, which mayfly-filter compiled, and not those built in")
          ->type_name("FILE");
  app.add_flag("--no-seccomp", options.no_seccomp,
               "Use no system call filter, so that nothing holds a guest that takes over this process")
      ->excludes(own);
}

// What a jailer hands on, for the metrics.
void add_jailer_options(CLI::App& app, Options& options) {
  app.add_option("--start-time-us", options.start_time_us, "When the start began, on CLOCK_MONOTONIC")
      ->type_name("US");
  app.add_option("--start-time-cpu-us", options.start_time_cpu_us,
                 "What this process had used of the CPU by then (CLOCK_PROCESS_CPUTIME_ID)")
      ->type_name("US");
  app.add_option("--parent-cpu-time-us", options.parent_cpu_time_us, "What the jailer used of the CPU")
      ->type_name("US");
}

// Nothing: they can be followed.
std::string_view contradiction(const Options& options) {
  if (options.no_api && !options.api_socket.empty()) return "--no-api and --api-sock exclude each other";
  if (options.no_api && options.config_file.empty()) {
    return "--no-api needs --config-file: nobody could configure the machine";
  }
  if (options.api_socket.empty() && options.config_file.empty()) {
    return "--api-sock PATH (to be controlled by HTTP) or --config-file FILE is needed";
  }
  return {};
}

}  // namespace

std::optional<int> parse_command_line(int argc, char** argv, Options& options) {
  CLI::App app{"Runs one virtual machine, controlled by HTTP or described by a configuration file."};
  app.footer(kFooter);
  app.set_version_flag("--version", "mayfly-vmm v" MAYFLY_VERSION);
  add_control_options(app, options);
  add_log_options(app, options);
  add_filter_options(app, options);
  add_jailer_options(app, options);
  std::string error;
  try {
    app.parse(argc, argv);
    error = contradiction(options);
  } catch (const CLI::ParseError& parse_error) {
    if (parse_error.get_exit_code() == 0) return app.exit(parse_error);  // --help, --version
    error = parse_error.what();
  }
  if (error.empty()) return std::nullopt;
  fmt::print(stderr, "mayfly-vmm: {}; see mayfly-vmm --help\n", error);
  return kExitUsage;
}

}  // namespace mayfly::api
