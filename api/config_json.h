// The configuration file: one JSON object, in the format that Firecracker's clients write.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

#include "api/metrics.h"
#include "base/log.h"
#include "base/result.h"
#include "vmm/config.h"

namespace mayfly::api {

struct Configuration {
  vmm::VmConfig vm;
  std::optional<base::log::Options> logger;
  std::optional<MetricsConfig> metrics;
};

// Keys: boot-source, machine-config, drives, network-interfaces, vsock, logger, metrics, mmds-config. Errors
// name the field and the value. Pure: opens nothing.
base::Result<Configuration> parse_configuration(std::string_view text);
// The same form, with every default filled in; without boot-source while there is none.
nlohmann::json to_json(const Configuration& configuration);

// Its "vsock".
base::Result<virtio::vsock::Config> parse_vsock(const nlohmann::json& object);

}  // namespace mayfly::api
