// How the metadata service is reached: plain data.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::mmds {

using Ipv4Address = std::array<std::uint8_t, 4>;

inline constexpr Ipv4Address kDefaultAddress = {169, 254, 169, 254};

// "a.b.c.d" in decimal, without leading zeros; nothing for any other text.
std::optional<Ipv4Address> parse_ipv4(std::string_view text);
std::string to_text(const Ipv4Address& address);
// RFC 3927, section 2.1: 169.254.1.0 to 169.254.254.255.
bool is_link_local(const Ipv4Address& address);

enum class Version : std::uint8_t {
  kV1,  // a token is not asked for
  kV2,  // a GET needs a session token
};

struct Config {
  std::vector<std::string> network_interfaces;  // the iface_id of each that the service answers on
  Version version = Version::kV1;
  Ipv4Address ipv4_address = kDefaultAddress;  // is_link_local()
  bool imds_compat = false;                    // answers are plain text, whatever a request accepts
};

}  // namespace mayfly::mmds
