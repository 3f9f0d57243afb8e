#include "mmds/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace mayfly::mmds {

namespace {

constexpr std::string_view kTokenPath = "/latest/api/token";

// Each header has a name of this service's own, and one that clients of EC2's send; the answer to either is
// under the name that was asked with.
struct HeaderName {
  std::string_view ours;
  std::string_view ec2;
};
constexpr HeaderName kToken = {"X-metadata-token", "X-aws-ec2-metadata-token"};
constexpr HeaderName kTtl = {"X-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token-ttl-seconds"};

struct Given {
  std::string_view name;
  std::string_view value;
};
std::optional<Given> find(const Request& request, const HeaderName& header) {
  for (const std::string_view name : {header.ours, header.ec2}) {
    if (const auto value = request.header(name)) return Given{name, *value};
  }
  return std::nullopt;
}

Response refuse(StatusCode status, std::string why) {
  return {.status = status, .body = std::move(why)};
}

bool is_token_path(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return path == kTokenPath;
}

std::optional<std::chrono::seconds> parse_ttl(std::string_view text) {
  std::uint32_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  const std::chrono::seconds ttl(seconds);
  if (ttl < kLeastTtl || ttl > kMostTtl) return std::nullopt;
  return ttl;
}

bool is_media_type(std::string_view range, std::string_view type) {
  range = range.substr(0, range.find(';'));
  while (!range.empty() && range.back() == ' ') range.remove_suffix(1);
  while (!range.empty() && range.front() == ' ') range.remove_prefix(1);
  return std::ranges::equal(range, type, [](char a, char b) { return (a | 0x20) == (b | 0x20); });
}

// JSON for those that ask for it, before they ask for plain text; the order is what counts.
Format accepted(const Request& request) {
  std::string_view ranges = request.header("Accept").value_or("");
  while (!ranges.empty()) {
    const std::size_t end = std::min(ranges.find(','), ranges.size());
    const std::string_view range = ranges.substr(0, end);
    if (is_media_type(range, "application/json")) return Format::kJson;
    if (is_media_type(range, "text/plain") || is_media_type(range, "*/*")) return Format::kImds;
    ranges.remove_prefix(std::min(end + 1, ranges.size()));
  }
  return Format::kImds;
}

}  // namespace

base::Result<std::shared_ptr<Service>> Service::create(Config config, std::shared_ptr<Store> store) {
  const Tokens tokens = TRY(Tokens::create());
  return std::shared_ptr<Service>(new Service(std::move(config), std::move(store), tokens));
}

Response Service::answer(const Request& request, Time now, Metrics& metrics) const {
  if (request.method == "GET") return get(request, now, metrics);
  if (request.method == "PUT") return put(request, now);
  Response response = refuse(StatusCode::kMethodNotAllowed, "Use GET or PUT.");
  response.headers.emplace_back("Allow", "GET, PUT");
  return response;
}

Response Service::get(const Request& request, Time now, Metrics& metrics) const {
  // With version 1 tokens are counted only, so that whoever moves to version 2 can see what it would refuse.
  const auto token = find(request, kToken);
  const bool valid = token && tokens_.valid(token->value, now);
  if (!token) ++metrics.rx_no_token;
  if (token && !valid) ++metrics.rx_invalid_token;
  if (config_.version == Version::kV2 && !valid) {
    return refuse(StatusCode::kUnauthorized,
                  token ? "The token is not valid, or not any more."
                        : fmt::format("A token is needed, in the header {} or {}.", kToken.ours, kToken.ec2));
  }
  const Format format = config_.imds_compat ? Format::kImds : accepted(request);
  auto found = store_->find(request.path, format);
  if (found) {
    return {.content_type = format == Format::kJson ? "application/json" : "text/plain",
            .body = std::move(*found)};
  }
  if (found.error() == Missing::kNotFound) {
    return refuse(StatusCode::kNotFound, fmt::format("There is nothing at {}.", request.path));
  }
  return refuse(StatusCode::kNotImplemented,
                fmt::format("The value at {} has no form as text; ask for application/json.", request.path));
}

Response Service::put(const Request& request, Time now) const {
  // Set by proxies: a request that was talked through one may be somebody else's (as with EC2's service).
  if (request.header("X-Forwarded-For"))
    return refuse(StatusCode::kBadRequest, "X-Forwarded-For is not allowed.");
  if (!is_token_path(request.path)) {
    return refuse(StatusCode::kNotFound, fmt::format("There is nothing to PUT at {}.", request.path));
  }
  const auto given = find(request, kTtl);
  if (!given) return refuse(StatusCode::kBadRequest, fmt::format("The header {} is needed.", kTtl.ours));
  const auto ttl = parse_ttl(given->value);
  if (!ttl) {
    return refuse(StatusCode::kBadRequest, fmt::format("{} is not a number from {} to {}.", given->name,
                                                       kLeastTtl.count(), kMostTtl.count()));
  }
  auto token = tokens_.issue(*ttl, now);
  if (!token) return refuse(StatusCode::kInternalError, "No token can be made.");
  Response response{.body = std::move(*token)};
  response.headers.emplace_back(given->name, fmt::format("{}", ttl->count()));
  return response;
}

}  // namespace mayfly::mmds
