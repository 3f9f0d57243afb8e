// Where the process writes what it does: "logger" and "metrics".
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "api/metrics.h"
#include "base/log.h"
#include "base/result.h"

namespace mayfly::api {

base::Result<base::log::Options> parse_logger(const nlohmann::json& object);
base::Result<MetricsConfig> parse_metrics(const nlohmann::json& object);

nlohmann::json to_json(const base::log::Options& logger);
nlohmann::json to_json(const MetricsConfig& metrics);

}  // namespace mayfly::api
