#include "api/net_json.h"

#include <nlohmann/json.hpp>

#include "api/drive_json.h"
#include "api/fields.h"
#include "api/rate_limiter_json.h"
#include "virtio/net/backend.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;

namespace {

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
  if (fields.find("socket_path") == nullptr) {
    net.tap = TRY(fields.text("host_dev_name"));
    if (auto named = virtio::net::check_tap_name(net.tap); !named) {
      return base::fail_because(std::move(named).error(), "{}", fields.path_of("host_dev_name"));
    }
    return {};
  }
  net.socket_path = TRY(fields.socket_path("socket_path"));
  if (fields.find("host_dev_name") != nullptr) {
    return fail("{}: an interface has either this or a host_dev_name", fields.path_of("socket_path"));
  }
  return {};
}

}  // namespace

Result<virtio::net::Config> parse_network_interface(const json& object, const std::string& where) {
  Fields fields = TRY(Fields::of(object, where));
  virtio::net::Config net;
  net.id = TRY(parse_device_id(fields, "iface_id"));
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

Status check_network_interface(std::span<const virtio::net::Config> others, const virtio::net::Config& net,
                               const std::string& where) {
  for (const virtio::net::Config& other : others) {
    if (!net.tap.empty() && other.tap == net.tap) {
      return fail("{}.host_dev_name: the tap \"{}\" is taken by the interface \"{}\"", where, net.tap,
                  other.id);
    }
    if (!net.socket_path.empty() && other.socket_path == net.socket_path) {
      return fail("{}.socket_path: \"{}\" is taken by the interface \"{}\"", where, net.socket_path,
                  other.id);
    }
  }
  return {};
}

json to_json(const virtio::net::Config& net) {
  json object = {{"iface_id", net.id}, {"guest_mac", virtio::net::to_text(net.mac)}};
  object[net.tap.empty() ? "socket_path" : "host_dev_name"] = virtio::net::network_of(net);
  if (net.mtu) object["mtu"] = *net.mtu;
  if (net.allow_spoofing) object["allow_spoofing"] = true;
  add_rate_limiter(object, "rx_rate_limiter", net.rx_rate_limiter);
  add_rate_limiter(object, "tx_rate_limiter", net.tx_rate_limiter);
  return object;
}

Result<NetworkUpdate> parse_network_update(const json& object) {
  Fields fields = TRY(Fields::of(object, "network-interface"));
  NetworkUpdate update;
  update.id = TRY(parse_device_id(fields, "iface_id"));
  update.rx_rate_limiter = TRY(parse_rate_limiter(fields, "rx_rate_limiter"));
  update.tx_rate_limiter = TRY(parse_rate_limiter(fields, "tx_rate_limiter"));
  TRY(fields.finish());
  return update;
}

}  // namespace mayfly::api
