// What the control socket and the configuration file act on: what is configured, and the machine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/config_json.h"
#include "api/drive_json.h"
#include "api/metrics.h"
#include "api/net_json.h"
#include "base/event_loop.h"
#include "base/metric.h"
#include "base/result.h"
#include "mmds/store.h"
#include "vmm/machine.h"

namespace mayfly::api {

// Each function is an operation of the control socket; its error is the fault's text. Those that configure
// are for the time before start(), those that update for the time after it. All on the loop's thread.
class Controller {
 public:
  // `id`: the instance's, for log and metrics. `configuration`: what there is at first; its metadata is
  // `metadata`, which is not null. `on_exit`: as Machine::create() has it. `loop` outlives the controller.
  // `before_run`: called when a machine is made, before its first instruction; an error, and it is not run.
  // Null: nothing.
  Controller(std::string id, Configuration configuration, std::shared_ptr<mmds::Store> metadata,
             base::EventLoop& loop, std::function<void(const vmm::Exit&)> on_exit,
             std::function<base::Status()> before_run = {});
  ~Controller();
  Controller(const Controller&) = delete;
  Controller& operator=(const Controller&) = delete;

  [[nodiscard]] const std::string& id() const { return id_; }
  [[nodiscard]] std::string_view state() const;  // "Not started", "Running" or "Paused"
  [[nodiscard]] const Configuration& configuration() const { return configuration_; }
  [[nodiscard]] mmds::Store& metadata() { return *metadata_; }
  // What the devices counted, and the process.
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() const;

  base::Status put_boot_source(vmm::BootSource boot);
  base::Status put_machine_config(const vmm::MachineConfig& machine);
  // Adds it, or replaces the one with its id. The file is looked at now, and again when the machine starts.
  base::Status put_drive(const vmm::DriveConfig& drive);
  base::Status put_network_interface(const virtio::net::Config& net);
  base::Status put_vsock(virtio::vsock::Config vsock);
  base::Status put_mmds_config(mmds::Config config);
  // From now on.
  base::Status put_logger(base::log::Options logger);
  // Once: the file is opened, and gets a line a minute from now on.
  base::Status put_metrics(MetricsConfig metrics);

  base::Status start();
  base::Status pause();   // paused already: nothing
  base::Status resume();  // running already: nothing
  base::Status send_ctrl_alt_del();
  base::Status update_drive(const DriveUpdate& update);
  base::Status update_network_interface(const NetworkUpdate& update);
  base::Status flush_metrics();

 private:
  [[nodiscard]] base::Status before_start(std::string_view operation) const;
  [[nodiscard]] base::Status after_start(std::string_view operation) const;
  // Takes it over, if a machine can be made from it: there is room for so many devices.
  base::Status adopt(vmm::VmConfig vm);

  const std::string id_;
  Configuration configuration_;
  const std::shared_ptr<mmds::Store> metadata_;
  base::EventLoop& loop_;
  std::function<void(const vmm::Exit&)> on_exit_;
  std::function<base::Status()> before_run_;
  std::unique_ptr<vmm::Machine> machine_;     // null: not started
  std::unique_ptr<MetricsReporter> metrics_;  // null: none are wanted
};

}  // namespace mayfly::api
