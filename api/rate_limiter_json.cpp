#include "api/rate_limiter_json.h"

#include <limits>
#include <optional>

namespace mayfly::api {

using base::Result;
using nlohmann::json;

namespace {

constexpr auto kMost = std::numeric_limits<std::uint64_t>::max();

Result<std::optional<virtio::BucketConfig>> parse_bucket(Fields& limiter, std::string_view name) {
  const json* const object = limiter.find(name);
  if (object == nullptr) return std::nullopt;
  Fields fields = TRY(Fields::of(*object, limiter.path_of(name)));
  virtio::BucketConfig bucket;
  bucket.size = TRY(fields.number("size", 0, kMost));
  const auto longest = static_cast<std::uint64_t>(virtio::kLongestRefill.count());
  bucket.refill_time = std::chrono::milliseconds(TRY(fields.number("refill_time", 0, longest)));
  if (fields.find("one_time_burst") != nullptr) {
    bucket.one_time_burst = TRY(fields.number("one_time_burst", 0, kMost));
  }
  TRY(fields.finish());
  return bucket;
}

json to_json(const virtio::BucketConfig& bucket) {
  json object = {{"size", bucket.size}, {"refill_time", bucket.refill_time.count()}};
  if (bucket.one_time_burst != 0) object["one_time_burst"] = bucket.one_time_burst;
  return object;
}

}  // namespace

Result<virtio::RateLimiterConfig> parse_rate_limiter(Fields& fields, std::string_view name) {
  const json* const object = fields.find(name);
  if (object == nullptr) return virtio::RateLimiterConfig{};
  Fields limiter = TRY(Fields::of(*object, fields.path_of(name)));
  virtio::RateLimiterConfig config;
  config.bandwidth = TRY(parse_bucket(limiter, "bandwidth"));
  config.operations = TRY(parse_bucket(limiter, "ops"));
  TRY(limiter.finish());
  return config;
}

void add_rate_limiter(json& object, std::string_view name, const virtio::RateLimiterConfig& config) {
  if (!config.bandwidth && !config.operations) return;
  json limiter = json::object();
  if (config.bandwidth) limiter["bandwidth"] = to_json(*config.bandwidth);
  if (config.operations) limiter["ops"] = to_json(*config.operations);
  object[std::string(name)] = std::move(limiter);
}

}  // namespace mayfly::api
