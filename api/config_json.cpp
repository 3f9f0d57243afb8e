#include "api/config_json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "api/fields.h"
#include "api/mmds_json.h"
#include "api/rate_limiter_json.h"

namespace mayfly::api {

namespace {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;
using namespace std::string_view_literals;

Result<vmm::BootSource> parse_boot_source(const json& object) {
  Fields fields = TRY(Fields::of(object, "boot-source"));
  vmm::BootSource boot;
  boot.kernel_image_path = TRY(fields.text("kernel_image_path"));
  boot.initrd_path = TRY(fields.optional_text("initrd_path"));
  boot.boot_args = TRY(fields.optional_text("boot_args"));
  TRY(fields.finish());
  return boot;
}

Result<vmm::MachineConfig> parse_machine_config(const json& object) {
  Fields fields = TRY(Fields::of(object, "machine-config"));
  vmm::MachineConfig machine;
  machine.vcpu_count = static_cast<std::uint32_t>(TRY(fields.number("vcpu_count", 1, vmm::kMostVcpus)));
  machine.mem_size_mib = TRY(fields.number("mem_size_mib", vmm::kLeastMemoryMib, vmm::kMostMemoryMib));
  if (TRY(fields.flag_or("smt", false))) return fail("{}: not supported; use false", fields.path_of("smt"));
  if (TRY(fields.flag_or("track_dirty_pages", false))) {
    return fail("{}: not supported; use false", fields.path_of("track_dirty_pages"));
  }
  static constexpr std::array kHugePages = {"None"sv};
  TRY(fields.choice("huge_pages", kHugePages));
  static constexpr std::array kTemplates = {"None"sv};
  TRY(fields.choice("cpu_template", kTemplates));
  TRY(fields.finish());
  return machine;
}

bool is_device_id(std::string_view id) {
  return !id.empty() && std::ranges::all_of(id, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
}

// Our extension: what the guest writes goes there, and path_on_host is only read.
Result<std::string> parse_overlay_path(Fields& fields, const virtio::block::Config& block) {
  const auto path = TRY(fields.optional_text("overlay_path"));
  if (!path) return std::string();
  const std::string name = fields.path_of("overlay_path");
  if (path->empty()) return fail("{}: the path is empty", name);
  if (*path == block.path) return fail("{}: \"{}\" is the drive's path_on_host", name, *path);
  if (block.read_only) return fail("{}: not for a drive that has is_read_only set", name);
  if (block.io_engine == virtio::block::IoEngine::kAsync) {
    return fail("{}: the drive is served synchronously; use \"Sync\", or leave io_engine out",
                fields.path_of("io_engine"));
  }
  return *path;
}

Result<vmm::DriveConfig> parse_drive(const json& object, std::string where) {
  Fields fields = TRY(Fields::of(object, std::move(where)));
  vmm::DriveConfig drive;
  drive.block.id = TRY(fields.text("drive_id"));
  if (!is_device_id(drive.block.id)) {
    return fail("{}: \"{}\" is not made of letters, digits and _", fields.path_of("drive_id"),
                drive.block.id);
  }
  drive.is_root_device = TRY(fields.flag("is_root_device"));
  TRY(fields.refuse("socket", "vhost-user drives are not supported; use path_on_host"));
  drive.block.path = TRY(fields.text("path_on_host"));
  drive.block.read_only = TRY(fields.flag_or("is_read_only", false));
  drive.partuuid = TRY(fields.optional_text("partuuid"));
  static constexpr std::array kCacheTypes = {"Unsafe"sv, "Writeback"sv};
  if (TRY(fields.choice("cache_type", kCacheTypes)) == "Writeback") {
    drive.block.cache_type = virtio::block::CacheType::kWriteback;
  }
  static constexpr std::array kEngines = {"Sync"sv, "Async"sv};
  if (const std::string engine = TRY(fields.choice("io_engine", kEngines));
      fields.find("io_engine") != nullptr) {
    using virtio::block::IoEngine;
    drive.block.io_engine = engine == "Async" ? IoEngine::kAsync : IoEngine::kSync;
  }
  drive.block.rate_limiter = TRY(parse_rate_limiter(fields, "rate_limiter"));
  drive.block.overlay_path = TRY(parse_overlay_path(fields, drive.block));
  TRY(fields.finish());
  return drive;
}

// Writes of two drives to one file. By name here; a lock finds two names of one overlay.
Status check_files(const std::vector<vmm::DriveConfig>& earlier, const vmm::DriveConfig& drive) {
  const std::string where = fmt::format("drives[{}]", earlier.size());
  for (const vmm::DriveConfig& other : earlier) {
    const virtio::block::Config& a = other.block;
    const virtio::block::Config& b = drive.block;
    if (!b.overlay_path.empty() && b.overlay_path == a.overlay_path) {
      return fail("{}.overlay_path: \"{}\" is the overlay of the drive \"{}\" already", where, b.overlay_path,
                  a.id);
    }
    if (!b.overlay_path.empty() && b.overlay_path == a.path) {
      return fail("{}.overlay_path: \"{}\" is the path_on_host of the drive \"{}\"", where, b.overlay_path,
                  a.id);
    }
    if (!a.overlay_path.empty() && a.overlay_path == b.path) {
      return fail("{}.path_on_host: \"{}\" is the overlay of the drive \"{}\"", where, b.path, a.id);
    }
    const bool a_writes = !a.read_only && a.overlay_path.empty();
    const bool b_writes = !b.read_only && b.overlay_path.empty();
    if (a.path == b.path &&
        ((!a.overlay_path.empty() && b_writes) || (!b.overlay_path.empty() && a_writes))) {
      return fail(
          "{}.path_on_host: \"{}\" is the base of one drive's overlay and written to by the other of \"{}\" "
          "and \"{}\"; set is_read_only or overlay_path for it",
          where, b.path, a.id, b.id);
    }
  }
  return {};
}

Result<std::vector<vmm::DriveConfig>> parse_drives(const json& array) {
  if (!array.is_array()) return fail("drives: expected an array, got {}", show(array));
  std::vector<vmm::DriveConfig> drives;
  for (const json& element : array) {
    vmm::DriveConfig drive = TRY(parse_drive(element, fmt::format("drives[{}]", drives.size())));
    for (const vmm::DriveConfig& earlier : drives) {
      if (earlier.block.id == drive.block.id) {
        return fail("drives[{}].drive_id: \"{}\" is taken by another drive", drives.size(), drive.block.id);
      }
      if (earlier.is_root_device && drive.is_root_device) {
        return fail("drives[{}].is_root_device: \"{}\" is the root device already", drives.size(),
                    earlier.block.id);
      }
    }
    TRY(check_files(drives, drive));
    drives.push_back(std::move(drive));
  }
  return drives;
}

Result<virtio::net::MacAddress> parse_guest_mac(Fields& fields, const virtio::net::Config& net) {
  const auto text = TRY(fields.optional_text("guest_mac"));
  if (!text) return virtio::net::default_mac(net.id, virtio::net::network_of(net));
  const auto mac = virtio::net::parse_mac(*text);
  if (!mac) {
    return fail("{}: \"{}\" is not a MAC address like 06:00:AC:10:00:02", fields.path_of("guest_mac"), *text);
  }
  if (!virtio::net::is_station(*mac)) {
    return fail("{}: {} is a multicast address or zero, and no interface may have it",
                fields.path_of("guest_mac"), *text);
  }
  return *mac;
}

// Firecracker's clients give host_dev_name; socket_path is ours.
Status parse_network(Fields& fields, virtio::net::Config& net) {
  const auto socket = TRY(fields.optional_text("socket_path"));
  if (!socket) {
    net.tap = TRY(fields.text("host_dev_name"));
    return {};
  }
  if (fields.find("host_dev_name") != nullptr) {
    return fail("{}: an interface has either this or a host_dev_name", fields.path_of("socket_path"));
  }
  if (socket->empty()) return fail("{}: the path is empty", fields.path_of("socket_path"));
  net.socket_path = *socket;
  return {};
}

Result<virtio::net::Config> parse_network_interface(const json& object, std::string where) {
  Fields fields = TRY(Fields::of(object, std::move(where)));
  virtio::net::Config net;
  net.id = TRY(fields.text("iface_id"));
  if (!is_device_id(net.id)) {
    return fail("{}: \"{}\" is not made of letters, digits and _", fields.path_of("iface_id"), net.id);
  }
  TRY(parse_network(fields, net));
  net.mac = TRY(parse_guest_mac(fields, net));
  if (fields.find("mtu") != nullptr) {
    constexpr std::uint64_t kMostMtu = 65535;
    net.mtu = static_cast<std::uint16_t>(TRY(fields.number("mtu", virtio::net::kLeastMtu, kMostMtu)));
  }
  net.allow_spoofing = TRY(fields.flag_or("allow_spoofing", false));
  net.rx_rate_limiter = TRY(parse_rate_limiter(fields, "rx_rate_limiter"));
  net.tx_rate_limiter = TRY(parse_rate_limiter(fields, "tx_rate_limiter"));
  TRY(fields.finish());
  return net;
}

Result<std::vector<virtio::net::Config>> parse_network_interfaces(const json& array) {
  if (!array.is_array()) return fail("network-interfaces: expected an array, got {}", show(array));
  std::vector<virtio::net::Config> interfaces;
  for (const json& element : array) {
    const std::string where = fmt::format("network-interfaces[{}]", interfaces.size());
    virtio::net::Config net = TRY(parse_network_interface(element, where));
    for (const virtio::net::Config& earlier : interfaces) {
      if (earlier.id == net.id)
        return fail("{}.iface_id: \"{}\" is taken by another interface", where, net.id);
      if (!net.tap.empty() && earlier.tap == net.tap) {
        return fail("{}.host_dev_name: the tap \"{}\" is taken by the interface \"{}\"", where, net.tap,
                    earlier.id);
      }
      if (!net.socket_path.empty() && earlier.socket_path == net.socket_path) {
        return fail("{}.socket_path: \"{}\" is taken by the interface \"{}\"", where, net.socket_path,
                    earlier.id);
      }
    }
    interfaces.push_back(std::move(net));
  }
  return interfaces;
}

Result<virtio::vsock::Config> parse_vsock(const json& object) {
  Fields fields = TRY(Fields::of(object, "vsock"));
  // 0–2 are the hypervisor, loopback and the host; all ones is "any" (virtio 1.2, 5.10.4).
  constexpr std::uint64_t kFirstGuestCid = 3;
  constexpr std::uint64_t kLastGuestCid = 0xffff'fffe;
  virtio::vsock::Config vsock;
  vsock.guest_cid =
      static_cast<std::uint32_t>(TRY(fields.number("guest_cid", kFirstGuestCid, kLastGuestCid)));
  vsock.uds_path = TRY(fields.text("uds_path"));
  TRY(fields.optional_text("vsock_id"));  // deprecated there, and without effect
  TRY(fields.finish());
  return vsock;
}

Result<base::log::Options> parse_logger(const json& object) {
  Fields fields = TRY(Fields::of(object, "logger"));
  base::log::Options options;
  options.path = TRY(fields.optional_text("log_path")).value_or("");
  const std::string level = TRY(fields.optional_text("level")).value_or("Info");
  const auto parsed = base::log::parse_level(level);
  if (!parsed) {
    return fail("{}: \"{}\" is not Off, Error, Warning, Info, Debug or Trace", fields.path_of("level"),
                level);
  }
  options.level = *parsed;
  options.show_level = TRY(fields.flag_or("show_level", false));
  TRY(fields.flag_or("show_log_origin", false));  // lines name their thread in any case
  TRY(fields.refuse("module", "lines cannot be filtered by module"));
  TRY(fields.finish());
  return options;
}

Result<MetricsConfig> parse_metrics(const json& object) {
  Fields fields = TRY(Fields::of(object, "metrics"));
  MetricsConfig metrics;
  metrics.path = TRY(fields.text("metrics_path"));
  if (metrics.path.empty()) return fail("{}: the path is empty", fields.path_of("metrics_path"));
  metrics.emit_id = TRY(fields.flag_or("emit_id", false));
  if (const json* properties = fields.find("properties")) {
    Fields texts = TRY(Fields::of(*properties, fields.path_of("properties")));
    for (const auto& [name, value] : properties->items()) metrics.properties[name] = TRY(texts.text(name));
  }
  TRY(fields.finish());
  return metrics;
}

}  // namespace

Result<Configuration> parse_configuration(std::string_view text) {
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return fail("not valid JSON");
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

}  // namespace mayfly::api
