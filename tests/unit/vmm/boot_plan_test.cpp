#include "vmm/boot_plan.h"

#include <catch2/catch.hpp>

using namespace mayfly::vmm;

namespace {

DriveConfig drive(const std::string& id, bool root = false) {
  DriveConfig drive;
  drive.block.id = id;
  drive.is_root_device = root;
  return drive;
}

}  // namespace

TEST_CASE("limits of a machine") {
  VmConfig config;
  CHECK(check(config));
  for (const std::uint32_t count : {0U, 33U}) {
    config.machine.vcpu_count = count;
    const auto status = check(config);
    REQUIRE_FALSE(status);
    CHECK(status.error().message.find("1-32") != std::string::npos);
  }
  config.machine.vcpu_count = 32;
  CHECK(check(config));
  for (const std::uint64_t mib : {std::uint64_t{0}, kMostMemoryMib + 1, ~std::uint64_t{0}}) {
    config.machine.mem_size_mib = mib;
    CHECK_FALSE(check(config));
  }
  config.machine.mem_size_mib = kMostMemoryMib;
  CHECK(check(config));
  for (int i = 0; i < 19; ++i) config.drives.push_back(drive("d"));
  CHECK(check(config));
  config.vsock.emplace();
  CHECK_FALSE(check(config));
}

TEST_CASE("network interfaces count as devices, and share nothing") {
  VmConfig config;
  config.network_interfaces = {{.id = "eth0", .tap = "tap0"}, {.id = "eth1", .tap = "tap1"}};
  CHECK(check(config));
  config.network_interfaces[1].id = "eth0";
  CHECK(check(config).error().message == "two network interfaces have the iface_id eth0");
  config.network_interfaces[1] = {.id = "eth1", .tap = "tap0"};
  CHECK(check(config).error().message.find("both on tap0") != std::string::npos);
  config.network_interfaces[1].tap = "tap1";
  for (int i = 0; i < 17; ++i) config.drives.push_back(drive("d"));
  CHECK(check(config));
  config.drives.push_back(drive("d"));
  CHECK_FALSE(check(config));
}

TEST_CASE("one root drive, which comes first") {
  VmConfig config;
  config.drives = {drive("a"), drive("root", true), drive("b")};
  REQUIRE(check(config));
  const auto order = drives_in_order(config);
  REQUIRE(order.size() == 3);
  CHECK(order[0]->block.id == "root");
  CHECK(order[1]->block.id == "a");
  CHECK(order[2]->block.id == "b");
  config.drives.push_back(drive("second", true));
  CHECK_FALSE(check(config));
}

TEST_CASE("the kernel is told of its root and its devices") {
  VmConfig config;
  config.boot.boot_args = "quiet -- word";
  config.drives = {drive("a"), drive("root", true)};
  CHECK(
      command_line(config, 2)->text() ==
      "quiet root=/dev/vda rw virtio_mmio.device=4K@0xc0001000:5 virtio_mmio.device=4K@0xc0002000:6 -- word");
  config.drives[1].block.read_only = true;
  config.drives[1].partuuid = "0eaa91a0-01";
  CHECK(command_line(config, 0)->text() == "quiet root=PARTUUID=0eaa91a0-01 ro -- word");
  config.drives.clear();
  config.boot.boot_args.reset();
  CHECK(command_line(config, 0)->text() == x86_64::kDefaultBootArgs);
  config.boot.boot_args = std::string(3000, 'x');
  CHECK_FALSE(command_line(config, 0));
}
