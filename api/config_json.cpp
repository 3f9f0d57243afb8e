#include "api/config_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "api/drive_json.h"
#include "api/fields.h"
#include "api/logging_json.h"
#include "api/machine_json.h"
#include "api/mmds_json.h"
#include "api/net_json.h"
#include "base/json.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using nlohmann::json;

namespace {

Result<std::vector<vmm::DriveConfig>> parse_drives(const json& array) {
  if (!array.is_array()) return fail("drives: expected an array, got {}", show(array));
  std::vector<vmm::DriveConfig> drives;
  for (const json& element : array) {
    const std::string where = fmt::format("drives[{}]", drives.size());
    vmm::DriveConfig drive = TRY(parse_drive(element, where));
    if (std::ranges::any_of(drives,
                            [&](const auto& earlier) { return earlier.block.id == drive.block.id; })) {
      return fail("{}.drive_id: \"{}\" is taken by another drive", where, drive.block.id);
    }
    TRY(check_drive(drives, drive, where));
    drives.push_back(std::move(drive));
  }
  return drives;
}

Result<std::vector<virtio::net::Config>> parse_network_interfaces(const json& array) {
  if (!array.is_array()) return fail("network-interfaces: expected an array, got {}", show(array));
  std::vector<virtio::net::Config> interfaces;
  for (const json& element : array) {
    const std::string where = fmt::format("network-interfaces[{}]", interfaces.size());
    virtio::net::Config net = TRY(parse_network_interface(element, where));
    if (std::ranges::find(interfaces, net.id, &virtio::net::Config::id) != interfaces.end()) {
      return fail("{}.iface_id: \"{}\" is taken by another interface", where, net.id);
    }
    TRY(check_network_interface(interfaces, net, where));
    interfaces.push_back(std::move(net));
  }
  return interfaces;
}

template <typename T>
json to_array(const std::vector<T>& elements) {
  json array = json::array();
  for (const T& element : elements) array.push_back(to_json(element));
  return array;
}

}  // namespace

Result<virtio::vsock::Config> parse_vsock(const json& object) {
  Fields fields = TRY(Fields::of(object, "vsock"));
  // 0–2 are the hypervisor, loopback and the host; all ones is "any" (virtio 1.2, 5.10.4).
  constexpr std::uint64_t kFirstGuestCid = 3;
  constexpr std::uint64_t kLastGuestCid = 0xffff'fffe;
  virtio::vsock::Config vsock;
  vsock.guest_cid =
      static_cast<std::uint32_t>(TRY(fields.number("guest_cid", kFirstGuestCid, kLastGuestCid)));
  vsock.uds_path = TRY(fields.socket_path("uds_path"));
  TRY(fields.optional_text("vsock_id"));  // deprecated there, and without effect
  TRY(fields.finish());
  return vsock;
}

Result<Configuration> parse_configuration(std::string_view text) {
  const json document = TRY(base::parse_json(text, "the configuration"));
  Fields fields = TRY(Fields::of(document, "configuration"));
  Configuration configuration;
  const json* boot = fields.find("boot-source");
  if (boot == nullptr) return fail("{}: the field is required", fields.path_of("boot-source"));
  configuration.vm.boot = TRY(parse_boot_source(*boot));
  if (const json* machine = fields.find("machine-config")) {
    configuration.vm.machine = TRY(parse_machine_config(*machine));
  }
  if (const json* drives = fields.find("drives")) configuration.vm.drives = TRY(parse_drives(*drives));
  if (const json* interfaces = fields.find("network-interfaces")) {
    configuration.vm.network_interfaces = TRY(parse_network_interfaces(*interfaces));
  }
  if (const json* vsock = fields.find("vsock")) configuration.vm.vsock = TRY(parse_vsock(*vsock));
  if (const json* logger = fields.find("logger")) configuration.logger = TRY(parse_logger(*logger));
  if (const json* mmds = fields.find("mmds-config")) {
    configuration.vm.mmds = TRY(parse_mmds_config(*mmds, configuration.vm.network_interfaces));
  }
  if (const json* metrics = fields.find("metrics")) configuration.metrics = TRY(parse_metrics(*metrics));
  TRY(fields.finish());
  return configuration;
}

json to_json(const Configuration& configuration) {
  const vmm::VmConfig& vm = configuration.vm;
  json object = {{"machine-config", to_json(vm.machine)},
                 {"drives", to_array(vm.drives)},
                 {"network-interfaces", to_array(vm.network_interfaces)}};
  if (!vm.boot.kernel_image_path.empty()) object["boot-source"] = to_json(vm.boot);
  if (vm.vsock) object["vsock"] = {{"guest_cid", vm.vsock->guest_cid}, {"uds_path", vm.vsock->uds_path}};
  if (vm.mmds) object["mmds-config"] = to_json(*vm.mmds);
  if (configuration.logger) object["logger"] = to_json(*configuration.logger);
  if (configuration.metrics) object["metrics"] = to_json(*configuration.metrics);
  return object;
}

}  // namespace mayfly::api
