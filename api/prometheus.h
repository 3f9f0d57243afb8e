// The metrics in Prometheus' text format, version 0.0.4.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/metric.h"

namespace mayfly::api {

inline constexpr std::string_view kPrometheusType = "text/plain; version=0.0.4";

// Of the metric "read_count" of the group "block_rootfs":
//   mayfly_block_read_count{instance="ID",device="rootfs"} 7
// A group that is the only one of its kind has no device label.
std::string prometheus_text(const std::vector<base::MetricGroup>& groups, std::string_view instance_id);

}  // namespace mayfly::api
