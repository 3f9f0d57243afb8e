// A rate limiter, as drives and network interfaces have them.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "api/fields.h"
#include "base/result.h"
#include "virtio/rate_limiter.h"

namespace mayfly::api {

// The field `name` of `fields`, an object with `bandwidth` and `ops`; what is absent or null limits nothing.
base::Result<virtio::RateLimiterConfig> parse_rate_limiter(Fields& fields, std::string_view name);

// Adds the field `name` to `object`, unless there is no bucket.
void add_rate_limiter(nlohmann::json& object, std::string_view name, const virtio::RateLimiterConfig& config);

}  // namespace mayfly::api
