// A network interface, in the configuration file and on the control socket.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "base/result.h"
#include "virtio/net/device.h"
#include "virtio/rate_limiter.h"

namespace mayfly::api {

// `where` names the interface in errors: "network-interfaces[1]".
base::Result<virtio::net::Config> parse_network_interface(const nlohmann::json& object,
                                                          const std::string& where);
// Whether a machine that has `others` may have `net` as well: a network serves one interface.
base::Status check_network_interface(std::span<const virtio::net::Config> others,
                                     const virtio::net::Config& net, const std::string& where);
nlohmann::json to_json(const virtio::net::Config& net);

// What may change of an interface while the machine is there; a bucket that is absent stays.
struct NetworkUpdate {
  std::string id;
  virtio::RateLimiterConfig rx_rate_limiter;
  virtio::RateLimiterConfig tx_rate_limiter;
};
base::Result<NetworkUpdate> parse_network_update(const nlohmann::json& object);

}  // namespace mayfly::api
