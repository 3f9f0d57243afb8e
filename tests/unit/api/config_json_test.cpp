#include "api/config_json.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

using mayfly::api::Configuration;
using mayfly::api::parse_configuration;
using nlohmann::json;

namespace {

json full() {
  return json::parse(R"({
    "boot-source": {"kernel_image_path": "/k", "initrd_path": null, "boot_args": "a b"},
    "machine-config": {"vcpu_count": 4, "mem_size_mib": 256, "smt": false, "huge_pages": "None"},
    "drives": [
      {"drive_id": "root_1", "is_root_device": true, "path_on_host": "/r", "is_read_only": true},
      {"drive_id": "data", "is_root_device": false, "path_on_host": "/d", "cache_type": "Writeback", "partuuid": "x",
       "io_engine": "Async"},
      {"drive_id": "more", "is_root_device": false, "path_on_host": "/m", "io_engine": "Sync"}
    ],
    "network-interfaces": [
      {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02", "mtu": 1400,
       "allow_spoofing": true, "rx_rate_limiter": null,
       "tx_rate_limiter": {"bandwidth": {"size": 1000, "refill_time": 100, "one_time_burst": 7}, "ops": null}},
      {"iface_id": "eth1", "host_dev_name": "tap1"}
    ],
    "vsock": {"guest_cid": 3, "uds_path": "/v", "vsock_id": "old"},
    "mmds-config": {"network_interfaces": ["eth1", "eth0"], "version": "V2", "ipv4_address": "169.254.170.2", "imds_compat": true},
    "metrics": {"metrics_path": "/x", "emit_id": true, "properties": {"zone": "a"}},
    "logger": {"log_path": "/l", "level": "debug", "show_level": true, "show_log_origin": true}
  })");
}

std::string error_of(const json& document) {
  const auto result = parse_configuration(document.dump());
  REQUIRE_FALSE(result.has_value());
  return result.error().message;
}

}  // namespace

TEST_CASE("a whole configuration file is read") {
  const auto result = parse_configuration(full().dump());
  REQUIRE(result.has_value());
  const Configuration& c = *result;
  REQUIRE(c.metrics);
  CHECK(c.metrics->path == "/x");
  CHECK(c.metrics->emit_id);
  CHECK(c.metrics->properties == std::map<std::string, std::string>{{"zone", "a"}});
  CHECK(c.vm.boot.kernel_image_path == "/k");
  CHECK_FALSE(c.vm.boot.initrd_path.has_value());
  CHECK(c.vm.boot.boot_args == "a b");
  CHECK(c.vm.machine.vcpu_count == 4);
  CHECK(c.vm.machine.mem_size_mib == 256);
  REQUIRE(c.vm.drives.size() == 3);
  CHECK(c.vm.drives[0].is_root_device);
  CHECK(c.vm.drives[0].block.read_only);
  CHECK(c.vm.drives[0].block.cache_type == mayfly::virtio::block::CacheType::kUnsafe);
  CHECK(c.vm.drives[1].block.cache_type == mayfly::virtio::block::CacheType::kWriteback);
  CHECK(c.vm.drives[1].partuuid == "x");
  REQUIRE(c.vm.network_interfaces.size() == 2);
  CHECK(c.vm.network_interfaces[0].id == "eth0");
  CHECK(c.vm.network_interfaces[0].tap == "tap0");
  CHECK(c.vm.network_interfaces[0].mac == mayfly::virtio::net::MacAddress{6, 0, 0xac, 0x10, 0, 2});
  CHECK(c.vm.network_interfaces[0].mtu == 1400);
  CHECK(c.vm.network_interfaces[0].allow_spoofing);
  CHECK(c.vm.network_interfaces[1].mac == mayfly::virtio::net::default_mac("eth1", "tap1"));
  CHECK_FALSE(c.vm.network_interfaces[1].mtu.has_value());
  CHECK_FALSE(c.vm.network_interfaces[1].allow_spoofing);
  using mayfly::virtio::block::IoEngine;
  CHECK(c.vm.drives[0].block.io_engine == IoEngine::kBest);
  CHECK(c.vm.drives[1].block.io_engine == IoEngine::kAsync);
  CHECK(c.vm.drives[2].block.io_engine == IoEngine::kSync);
  REQUIRE(c.vm.vsock.has_value());
  CHECK(c.vm.vsock->guest_cid == 3);
  REQUIRE(c.vm.mmds.has_value());
  CHECK(c.vm.mmds->network_interfaces == std::vector<std::string>{"eth1", "eth0"});
  CHECK(c.vm.mmds->version == mayfly::mmds::Version::kV2);
  CHECK(c.vm.mmds->ipv4_address == mayfly::mmds::Ipv4Address{169, 254, 170, 2});
  CHECK(c.vm.mmds->imds_compat);
  REQUIRE(c.logger.has_value());
  CHECK(c.logger->level == mayfly::base::log::Level::kDebug);
}

TEST_CASE("only the boot source is required, and the rest has defaults") {
  const auto result = parse_configuration(R"({"boot-source": {"kernel_image_path": "/k"}})");
  REQUIRE(result.has_value());
  CHECK(result->vm.machine.vcpu_count == 1);
  CHECK(result->vm.machine.mem_size_mib == 128);
  CHECK(result->vm.drives.empty());
  CHECK_FALSE(result->vm.vsock.has_value());
  CHECK_FALSE(result->vm.mmds.has_value());
  json document = full();
  document["mmds-config"] = {{"network_interfaces", {"eth0"}}, {"version", nullptr}};
  const auto mmds = parse_configuration(document.dump())->vm.mmds;
  REQUIRE(mmds.has_value());
  CHECK(mmds->version == mayfly::mmds::Version::kV1);
  CHECK(mmds->ipv4_address == mayfly::mmds::kDefaultAddress);
  CHECK_FALSE(mmds->imds_compat);
}

TEST_CASE("what is not a JSON object is refused") {
  for (const char* text : {"", "{", "[]", "7", "\"x\"", "{\"a\":1}x"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_configuration(text).has_value());
  }
  CHECK_FALSE(parse_configuration(std::string(100000, '[')).has_value());
}

TEST_CASE("each wrong field is refused by name and value") {
  struct Case {
    const char* pointer;
    json value;
    const char* expected;  // part of the message
  };
  const std::vector<Case> cases = {
      {"/boot-source/kernel_image_path", 7, "boot-source.kernel_image_path: expected a string, got 7"},
      {"/boot-source/kernel_image_path", nullptr, "boot-source.kernel_image_path: the field is required"},
      {"/boot-source/kernel_image_path", std::string("a\0b", 3), "without NUL"},
      {"/boot-source/colour", "red", "boot-source.colour: unknown field"},
      {"/machine-config/vcpu_count", 0, "a whole number from 1 to 32, got 0"},
      {"/machine-config/vcpu_count", 33, "a whole number from 1 to 32, got 33"},
      {"/machine-config/vcpu_count", -1, "got -1"},
      {"/machine-config/vcpu_count", 1.5, "got 1.5"},
      {"/machine-config/vcpu_count", "2", "got \"2\""},
      {"/machine-config/mem_size_mib", 1048577, "machine-config.mem_size_mib"},
      {"/machine-config/smt", 1, "true or false"},
      {"/machine-config/cpu_template", "T2", "machine-config.cpu_template"},
      {"/drives/0/drive_id", "a-b", "drives[0].drive_id: \"a-b\""},
      {"/drives/1/drive_id", "root_1", "taken by another drive"},
      {"/drives/1/is_root_device", true, "\"root_1\" is the root device already"},
      {"/drives/1/socket", "/s", "vhost-user"},
      {"/drives/1/cache_type", "Fast", "one of Unsafe, Writeback"},
      {"/drives", json::object(), "drives: expected an array"},
      {"/network-interfaces", json::object(), "network-interfaces: expected an array"},
      {"/network-interfaces/0/iface_id", nullptr, "network-interfaces[0].iface_id: the field is required"},
      {"/network-interfaces/0/iface_id", "a-b", "\"a-b\" is not made of letters"},
      {"/network-interfaces/0/host_dev_name", nullptr,
       "network-interfaces[0].host_dev_name: the field is required"},
      {"/network-interfaces/0/host_dev_name", 3, "expected a string, got 3"},
      {"/network-interfaces/1/iface_id", "eth0", "network-interfaces[1].iface_id: \"eth0\" is taken"},
      {"/network-interfaces/1/host_dev_name", "tap0", "\"tap0\" is taken by the interface \"eth0\""},
      {"/network-interfaces/0/socket_path", "/s", "either this or a host_dev_name"},
      {"/network-interfaces/0/socket_path", 3, "expected a string, got 3"},
      {"/network-interfaces/0/guest_mac", "06:00:ac:10:00", "\"06:00:ac:10:00\" is not a MAC address"},
      {"/network-interfaces/0/guest_mac", "01:00:ac:10:00:02", "multicast"},
      {"/network-interfaces/0/guest_mac", "00:00:00:00:00:00", "zero"},
      {"/network-interfaces/0/mtu", 67, "a whole number from 68 to 65535, got 67"},
      {"/network-interfaces/0/mtu", 65536, "got 65536"},
      {"/network-interfaces/0/allow_spoofing", "yes", "true or false"},
      {"/drives/0/rate_limiter", {{"ops", 7}}, "rate_limiter.ops: expected a JSON object, got 7"},
      {"/network-interfaces/0/rx_rate_limiter", 5, "rx_rate_limiter: expected a JSON object, got 5"},
      {"/network-interfaces/0/rx_rate_limiter", {{"packets", 1}}, "rx_rate_limiter.packets: unknown field"},
      {"/network-interfaces/1/tx_rate_limiter", {{"ops", {{"size", 1}}}}, "tx_rate_limiter.ops.refill_time"},
      {"/network-interfaces/0/tx_rate_limiter/bandwidth/size", -1, "bandwidth.size: expected a whole number"},
      {"/network-interfaces/0/tx_rate_limiter/bandwidth/refill_time", 1'000'000'001, "got 1000000001"},
      {"/network-interfaces/0/colour", "red", "network-interfaces[0].colour: unknown field"},
      {"/vsock/guest_cid", 2, "a whole number from 3"},
      {"/vsock/guest_cid", 4294967295U, "vsock.guest_cid"},
      {"/logger/level", "Loud", "\"Loud\""},
      {"/mmds-config", 7, "mmds-config: expected a JSON object"},
      {"/mmds-config/network_interfaces", nullptr, "mmds-config.network_interfaces: the field is required"},
      {"/mmds-config/network_interfaces", json::array(), "expected an array of interface ids, got []"},
      {"/mmds-config/network_interfaces", "eth0", "got \"eth0\""},
      {"/mmds-config/network_interfaces/0", "eth7",
       "mmds-config.network_interfaces[0]: there is no network interface \"eth7\""},
      {"/mmds-config/network_interfaces/1", 7, "network_interfaces[1]: expected an interface's id, got 7"},
      {"/mmds-config/network_interfaces/1", "eth1", "\"eth1\" is named twice"},
      {"/mmds-config/version", "V3", "mmds-config.version"},
      {"/mmds-config/ipv4_address", "10.0.0.1", "mmds-config.ipv4_address: \"10.0.0.1\" is not a link-local"},
      {"/mmds-config/ipv4_address", "169.254.255.1", "\"169.254.255.1\""},
      {"/mmds-config/ipv4_address", "169.254.169", "\"169.254.169\""},
      {"/mmds-config/imds_compat", "yes", "true or false"},
      {"/mmds-config/colour", "red", "mmds-config.colour: unknown field"},
      {"/metrics", {{"metrics_path", ""}}, "metrics.metrics_path"},
      {"/metrics", {{"emit_id", true}}, "metrics.metrics_path"},
      {"/metrics", {{"metrics_path", "/m"}, {"properties", {{"a", 1}}}}, "metrics.properties.a"},
      {"/metrics", {{"metrics_path", "/m"}, {"every", 1}}, "metrics.every"},
      {"/bogus", 1, "configuration.bogus: unknown field"},
  };
  for (const Case& c : cases) {
    json document = full();
    document[json::json_pointer(c.pointer)] = c.value;
    CAPTURE(c.pointer, c.value.dump());
    CHECK_THAT(error_of(document), Catch::Contains(c.expected));
  }
}

TEST_CASE("a drive may have an overlay") {
  json document = full();
  document["drives"][2]["overlay_path"] = "/o";
  CHECK(parse_configuration(document.dump())->vm.drives[2].block.overlay_path == "/o");
  CHECK(parse_configuration(document.dump())->vm.drives[1].block.overlay_path.empty());
  document["drives"][2]["overlay_path"] = nullptr;
  CHECK(parse_configuration(document.dump())->vm.drives[2].block.overlay_path.empty());
  // The same base, with an overlay each, or read-only.
  document["drives"][2]["overlay_path"] = "/o";
  document["drives"][1] = {
      {"drive_id", "twin"}, {"is_root_device", false}, {"path_on_host", "/m"}, {"overlay_path", "/p"}};
  CHECK(parse_configuration(document.dump()));
  document["drives"][0]["path_on_host"] = "/m";
  CHECK(parse_configuration(document.dump()));
}

TEST_CASE("an overlay that cannot be is refused by name and value") {
  const auto refused = [](const char* pointer, const json& value) {
    json document = full();
    document["drives"][2]["overlay_path"] = "/o";
    document["drives"].push_back(
        {{"drive_id", "last"}, {"is_root_device", false}, {"path_on_host", "/e"}, {"overlay_path", "/p"}});
    REQUIRE(parse_configuration(document.dump()));
    document[json::json_pointer(pointer)] = value;
    return error_of(document);
  };
  using Catch::Contains;
  CHECK_THAT(refused("/drives/2/overlay_path", 7),
             Contains("drives[2].overlay_path: expected a string, got 7"));
  CHECK_THAT(refused("/drives/2/overlay_path", ""), Contains("drives[2].overlay_path: the path is empty"));
  CHECK_THAT(refused("/drives/2/overlay_path", "/m"), Contains("\"/m\" is the drive's path_on_host"));
  CHECK_THAT(refused("/drives/2/is_read_only", true), Contains("drives[2].overlay_path: not for a drive"));
  CHECK_THAT(refused("/drives/2/io_engine", "Async"), Contains("drives[2].io_engine: ") && Contains("Sync"));
  CHECK_THAT(refused("/drives/3/overlay_path", "/o"),
             Contains("drives[3].overlay_path: \"/o\" is the overlay of the drive \"more\""));
  CHECK_THAT(refused("/drives/3/overlay_path", "/d"), Contains("is the path_on_host of the drive \"data\""));
  CHECK_THAT(refused("/drives/3/path_on_host", "/o"),
             Contains("\"/o\" is the overlay of the drive \"more\""));
  CHECK_THAT(refused("/drives/3/path_on_host", "/d"), Contains("\"/d\" is the base of one drive's overlay"));
  CHECK_THAT(refused("/drives/1/path_on_host", "/m"), Contains("\"/m\" is the base of one drive's overlay"));
}

TEST_CASE("an error shows no more than a line of the value") {
  json document = full();
  document["machine-config"]["vcpu_count"] = std::string(100000, 'x');
  CHECK(error_of(document).size() < 200);
}

TEST_CASE("a network interface on a socket") {
  json document = full();
  document.erase("mmds-config");
  auto& interfaces = document["network-interfaces"];
  interfaces = {{{"iface_id", "eth0"}, {"socket_path", "/s"}}};
  const auto result = parse_configuration(document.dump());
  REQUIRE(result.has_value());
  CHECK(result->vm.network_interfaces[0].tap.empty());
  CHECK(result->vm.network_interfaces[0].socket_path == "/s");
  CHECK(result->vm.network_interfaces[0].mac == mayfly::virtio::net::default_mac("eth0", "/s"));
  interfaces.push_back({{"iface_id", "eth1"}, {"socket_path", "/s"}});
  CHECK(error_of(document).find("\"/s\" is taken by the interface \"eth0\"") != std::string::npos);
  interfaces[0]["socket_path"] = "";
  CHECK(error_of(document).find("socket_path: the path is empty") != std::string::npos);
}
