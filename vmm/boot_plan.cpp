#include "vmm/boot_plan.h"

#include <algorithm>

#include "vmm/x86_64/layout.h"

namespace mayfly::vmm {

namespace {

base::Status check_network(const std::vector<virtio::net::Config>& interfaces) {
  for (auto later = interfaces.begin(); later != interfaces.end(); ++later) {
    for (auto earlier = interfaces.begin(); earlier != later; ++earlier) {
      if (earlier->id == later->id)
        return base::fail("two network interfaces have the iface_id {}", later->id);
      if (virtio::net::network_of(*earlier) == virtio::net::network_of(*later)) {
        return base::fail("the network interfaces {} and {} are both on {}, which serves one", earlier->id,
                          later->id, virtio::net::network_of(*later));
      }
    }
  }
  return {};
}

}  // namespace

base::Status check(const VmConfig& config) {
  const MachineConfig& machine = config.machine;
  if (machine.vcpu_count < 1 || machine.vcpu_count > kMostVcpus) {
    return base::fail("vcpu_count is {}, but must be 1-{}", machine.vcpu_count, kMostVcpus);
  }
  if (machine.mem_size_mib < kLeastMemoryMib || machine.mem_size_mib > kMostMemoryMib) {
    return base::fail("mem_size_mib is {}, but must be {}-{}", machine.mem_size_mib, kLeastMemoryMib,
                      kMostMemoryMib);
  }
  const std::size_t devices =
      config.drives.size() + config.network_interfaces.size() + (config.vsock ? 1 : 0);
  if (devices > x86_64::kMostVirtioDevices) {
    return base::fail(
        "{} drives, network interfaces and sockets are configured, but a machine has room for {} devices",
        devices, x86_64::kMostVirtioDevices);
  }
  const auto roots = std::ranges::count_if(config.drives, &DriveConfig::is_root_device);
  if (roots > 1) return base::fail("{} drives have is_root_device set, but only one may", roots);
  return check_network(config.network_interfaces);
}

std::vector<const DriveConfig*> drives_in_order(const VmConfig& config) {
  std::vector<const DriveConfig*> drives;
  drives.reserve(config.drives.size());
  for (const DriveConfig& drive : config.drives) drives.push_back(&drive);
  std::ranges::stable_partition(drives, [](const DriveConfig* drive) { return drive->is_root_device; });
  return drives;
}

namespace {

std::string root_words(const DriveConfig& root) {
  const std::string device = root.partuuid ? "PARTUUID=" + *root.partuuid : "/dev/vda";
  return "root=" + device + (root.block.read_only ? " ro" : " rw");
}

}  // namespace

base::Result<x86_64::CommandLine> command_line(const VmConfig& config, std::uint32_t device_count) {
  auto line = TRY(x86_64::CommandLine::create(config.boot.boot_args ? std::string_view(*config.boot.boot_args)
                                                                    : x86_64::kDefaultBootArgs));
  for (const DriveConfig& drive : config.drives) {
    if (drive.is_root_device) TRY(line.append(root_words(drive)));
  }
  for (std::uint32_t index = 0; index < device_count; ++index) {
    TRY(line.append_virtio_mmio_device(x86_64::virtio_mmio_address(index), x86_64::virtio_mmio_gsi(index)));
  }
  return line;
}

}  // namespace mayfly::vmm
