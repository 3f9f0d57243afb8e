#include "api/mmds_json.h"

#include <algorithm>
#include <array>

#include "api/fields.h"

namespace mayfly::api {

namespace {

using base::fail;
using base::Result;
using nlohmann::json;
using namespace std::string_view_literals;

Result<std::vector<std::string>> parse_interface_ids(Fields& fields,
                                                     std::span<const virtio::net::Config> interfaces) {
  const std::string path = fields.path_of("network_interfaces");
  const json* array = fields.find("network_interfaces");
  if (array == nullptr) return fail("{}: the field is required", path);
  if (!array->is_array() || array->empty()) {
    return fail("{}: expected an array of interface ids, got {}", path, show(*array));
  }
  std::vector<std::string> ids;
  for (const json& element : *array) {
    const std::string where = fmt::format("{}[{}]", path, ids.size());
    if (!element.is_string()) return fail("{}: expected an interface's id, got {}", where, show(element));
    const auto id = element.get<std::string>();
    if (std::ranges::find(interfaces, id, &virtio::net::Config::id) == interfaces.end()) {
      return fail("{}: there is no network interface \"{}\"", where, id);
    }
    if (std::ranges::find(ids, id) != ids.end()) return fail("{}: \"{}\" is named twice", where, id);
    ids.push_back(id);
  }
  return ids;
}

Result<mmds::Ipv4Address> parse_address(Fields& fields) {
  const auto text = TRY(fields.optional_text("ipv4_address"));
  if (!text) return mmds::kDefaultAddress;
  const auto address = mmds::parse_ipv4(*text);
  if (!address || !mmds::is_link_local(*address)) {
    return fail("{}: \"{}\" is not a link-local address, from 169.254.1.0 to 169.254.254.255",
                fields.path_of("ipv4_address"), *text);
  }
  return *address;
}

}  // namespace

Result<mmds::Config> parse_mmds_config(const json& object, std::span<const virtio::net::Config> interfaces) {
  Fields fields = TRY(Fields::of(object, "mmds-config"));
  mmds::Config config;
  config.network_interfaces = TRY(parse_interface_ids(fields, interfaces));
  static constexpr std::array kVersions = {"V1"sv, "V2"sv};
  if (TRY(fields.choice("version", kVersions)) == "V2") config.version = mmds::Version::kV2;
  config.ipv4_address = TRY(parse_address(fields));
  config.imds_compat = TRY(fields.flag_or("imds_compat", false));
  TRY(fields.finish());
  return config;
}

json to_json(const mmds::Config& config) {
  return {{"network_interfaces", config.network_interfaces},
          {"version", config.version == mmds::Version::kV2 ? "V2" : "V1"},
          {"ipv4_address", mmds::to_text(config.ipv4_address)},
          {"imds_compat", config.imds_compat}};
}

}  // namespace mayfly::api
