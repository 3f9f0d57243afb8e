#include "api/controller.h"

#include <fcntl.h>

#include <algorithm>
#include <iterator>

#include "base/file.h"
#include "base/log.h"
#include "virtio/block/medium.h"
#include "vmm/boot_plan.h"

namespace mayfly::api {

using base::fail;
using base::Status;

namespace {

// `element` instead of the one for which `same` is true, or as one more, if `check` of those that stay says
// so.
template <typename T>
Status put(std::vector<T>& elements, T element, const std::function<bool(const T&)>& same,
           const std::function<Status(const std::vector<T>& others)>& check) {
  std::vector<T> others;
  std::ranges::remove_copy_if(elements, std::back_inserter(others), same);
  TRY(check(others));
  const auto old = std::ranges::find_if(elements, same);
  if (old != elements.end()) {
    *old = std::move(element);
  } else {
    elements.push_back(std::move(element));
  }
  return {};
}

}  // namespace

Controller::Controller(std::string id, Configuration configuration, std::shared_ptr<mmds::Store> metadata,
                       base::EventLoop& loop, std::function<void(const vmm::Exit&)> on_exit,
                       std::function<Status()> before_run)
    : id_(std::move(id)),
      configuration_(std::move(configuration)),
      metadata_(std::move(metadata)),
      loop_(loop),
      on_exit_(std::move(on_exit)),
      before_run_(std::move(before_run)) {
  configuration_.vm.metadata = metadata_;
}

Controller::~Controller() {
  if (metrics_) metrics_->flush();
}

std::string_view Controller::state() const {
  if (!machine_) return "Not started";
  return machine_->state() == vmm::State::kPaused ? "Paused" : "Running";
}

std::vector<base::MetricGroup> Controller::metric_groups() const {
  std::vector<base::MetricGroup> groups;
  if (machine_) groups = machine_->metric_groups();
  groups.push_back({"logger",
                    {{"missed_log_count", base::log::lost_lines()},
                     {"missed_metrics_count", metrics_ ? metrics_->lost_lines() : 0}}});
  return groups;
}

Status Controller::before_start(std::string_view operation) const {
  if (!machine_) return {};
  return fail("{} is not possible after the machine was started", operation);
}

Status Controller::after_start(std::string_view operation) const {
  if (machine_) return {};
  return fail("{} is not possible before the machine is started", operation);
}

// --- Before the start

Status Controller::adopt(vmm::VmConfig vm) {
  TRY(vmm::check(vm));
  configuration_.vm = std::move(vm);
  return {};
}

Status Controller::put_boot_source(vmm::BootSource boot) {
  TRY(before_start("PUT /boot-source"));
  for (const auto& [name, path] : {std::pair{"kernel_image_path", std::optional(boot.kernel_image_path)},
                                   std::pair{"initrd_path", boot.initrd_path}}) {
    if (!path) continue;
    if (auto file = base::open_file(*path, O_RDONLY | O_NONBLOCK); !file) {
      return base::fail_because(std::move(file).error(), "boot-source.{}", name);
    }
  }
  configuration_.vm.boot = std::move(boot);
  return {};
}

Status Controller::put_machine_config(const vmm::MachineConfig& machine) {
  TRY(before_start("a change of /machine-config"));
  configuration_.vm.machine = machine;
  return {};
}

Status Controller::put_drive(const vmm::DriveConfig& drive) {
  TRY(before_start("PUT /drives"));
  const bool writes = !drive.block.read_only && drive.block.overlay_path.empty();
  if (auto file = virtio::block::File::open(drive.block.path, !writes); !file) {
    return base::fail_because(std::move(file).error(), "drive.path_on_host");
  }
  vmm::VmConfig vm = configuration_.vm;
  TRY(put<vmm::DriveConfig>(
      vm.drives, drive, [&](const auto& other) { return other.block.id == drive.block.id; },
      [&](const auto& others) { return check_drive(others, drive, "drive"); }));
  return adopt(std::move(vm));
}

Status Controller::put_network_interface(const virtio::net::Config& net) {
  TRY(before_start("PUT /network-interfaces"));
  vmm::VmConfig vm = configuration_.vm;
  TRY(put<virtio::net::Config>(
      vm.network_interfaces, net, [&](const auto& other) { return other.id == net.id; },
      [&](const auto& others) { return check_network_interface(others, net, "network-interface"); }));
  return adopt(std::move(vm));
}

Status Controller::put_vsock(virtio::vsock::Config vsock) {
  TRY(before_start("PUT /vsock"));
  vmm::VmConfig vm = configuration_.vm;
  vm.vsock = std::move(vsock);
  return adopt(std::move(vm));
}

Status Controller::put_mmds_config(mmds::Config config) {
  TRY(before_start("PUT /mmds/config"));
  configuration_.vm.mmds = std::move(config);
  return {};
}

Status Controller::put_logger(base::log::Options logger) {
  TRY(before_start("PUT /logger"));
  logger.instance_id = id_;
  if (auto configured = base::log::configure(logger); !configured) {
    return base::fail_because(std::move(configured).error(), "logger.log_path");
  }
  configuration_.logger = std::move(logger);
  return {};
}

Status Controller::put_metrics(MetricsConfig metrics) {
  TRY(before_start("PUT /metrics"));
  if (metrics_) return fail("metrics.metrics_path: they go to {} already", configuration_.metrics->path);
  auto reporter = MetricsReporter::create(metrics, id_, loop_, [this] { return metric_groups(); });
  if (!reporter) return base::fail_because(std::move(reporter).error(), "metrics.metrics_path");
  metrics_ = std::move(*reporter);
  configuration_.metrics = std::move(metrics);
  return {};
}

Status Controller::start() {
  TRY(before_start("InstanceStart"));
  if (configuration_.vm.boot.kernel_image_path.empty()) {
    return fail("there is no kernel to start: PUT /boot-source first");
  }
  auto machine = TRY(vmm::Machine::create(configuration_.vm, loop_, on_exit_));
  if (before_run_) TRY(before_run_());
  TRY(machine->start());
  machine_ = std::move(machine);
  return {};
}

// --- After the start

Status Controller::pause() {
  TRY(after_start("Paused"));
  if (machine_->state() == vmm::State::kPaused) return {};
  return machine_->pause();
}

Status Controller::resume() {
  TRY(after_start("Resumed"));
  if (machine_->state() == vmm::State::kRunning) return {};
  return machine_->resume();
}

Status Controller::send_ctrl_alt_del() {
  TRY(after_start("SendCtrlAltDel"));
  return machine_->send_ctrl_alt_del();
}

Status Controller::update_drive(const DriveUpdate& update) {
  TRY(after_start("PATCH /drives"));
  auto& drives = configuration_.vm.drives;
  const auto found = std::ranges::find_if(
      drives, [&](const vmm::DriveConfig& drive) { return drive.block.id == update.id; });
  if (found == drives.end()) return fail("drive.drive_id: there is no drive \"{}\"", update.id);
  virtio::block::Config& drive = found->block;
  std::optional<std::string> path = update.path;
  // What is in an overlay belongs to its base, which is only looked at again.
  if (path && !drive.overlay_path.empty() && *path == drive.path) path = "";
  TRY(machine_->update_drive(update.id, path, update.rate_limiter));
  if (update.path) drive.path = *update.path;
  if (update.rate_limiter) drive.rate_limiter.update(*update.rate_limiter);
  return {};
}

Status Controller::update_network_interface(const NetworkUpdate& update) {
  TRY(after_start("PATCH /network-interfaces"));
  auto& interfaces = configuration_.vm.network_interfaces;
  const auto net = std::ranges::find(interfaces, update.id, &virtio::net::Config::id);
  if (net == interfaces.end()) {
    return fail("network-interface.iface_id: there is no network interface \"{}\"", update.id);
  }
  TRY(machine_->update_network_interface(update.id, update.rx_rate_limiter, update.tx_rate_limiter));
  net->rx_rate_limiter.update(update.rx_rate_limiter);
  net->tx_rate_limiter.update(update.tx_rate_limiter);
  return {};
}

Status Controller::flush_metrics() {
  TRY(after_start("FlushMetrics"));
  if (!metrics_) return fail("there is nowhere to write the metrics to: PUT /metrics first");
  metrics_->flush();
  return {};
}

}  // namespace mayfly::api
