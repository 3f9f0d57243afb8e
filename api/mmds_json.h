// The metadata service's section of a configuration.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>

#include "base/result.h"
#include "mmds/config.h"
#include "virtio/net/device.h"

namespace mayfly::api {

// `object`: the value of "mmds-config". `interfaces`: those that it may name.
base::Result<mmds::Config> parse_mmds_config(const nlohmann::json& object,
                                             std::span<const virtio::net::Config> interfaces);

nlohmann::json to_json(const mmds::Config& config);

}  // namespace mayfly::api
