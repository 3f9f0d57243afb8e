// IPv4 addresses, the host's networks, and where a guest's fits among them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

struct Ipv4 {
  std::uint32_t value = 0;  // host byte order
  bool operator==(const Ipv4&) const = default;
  [[nodiscard]] bool is_loopback() const { return value >> 24U == 127; }
};
// Dotted decimal, and nothing else.
std::optional<Ipv4> parse_ipv4(std::string_view text);
std::string to_text(Ipv4 address);

struct Ipv4Network {
  Ipv4 address;         // of a host in it, or its first
  unsigned prefix = 0;  // 0-32
  bool operator==(const Ipv4Network&) const = default;
  [[nodiscard]] std::uint32_t mask() const { return prefix == 0 ? 0 : ~0U << (32 - prefix); }
  [[nodiscard]] bool overlaps(const Ipv4Network& other) const {
    return ((address.value ^ other.address.value) & mask() & other.mask()) == 0;
  }
};
std::string to_text(const Ipv4Network& network);

struct Route {
  std::string interface;
  Ipv4Network destination;  // prefix 0: everywhere
  Ipv4 gateway;             // 0.0.0.0: none, it is on the link
  std::uint32_t metric = 0;
  bool operator==(const Route&) const = default;
};
// The routes that are up in the text of /proc/net/route; lines that make no sense are left out.
std::vector<Route> parse_routes(std::string_view text);
// Where traffic leaves this host: the route to everywhere with the least metric. Null: there is none.
const Route* default_route(std::span<const Route> routes);

struct LocalAddress {
  std::string interface;
  Ipv4Network network;
};
// Of the network namespace that the caller is in.
base::Result<std::vector<Route>> read_routes();
base::Result<std::vector<LocalAddress>> read_addresses();

// Four addresses for the guest of one run: network, host, guest, broadcast.
inline constexpr unsigned kGuestPrefix = 30;
inline constexpr unsigned kMostGuestNetworks = 1U << 14U;
// The one for number `slot` < kMostGuestNetworks, in the first of a few private ranges where it overlaps none
// of `taken`. Other slots get others. Nothing when every range is taken there.
std::optional<Ipv4Network> guest_network(unsigned slot, std::span<const Ipv4Network> taken);
// What must not overlap: each route but those to everywhere, and each address.
std::vector<Ipv4Network> taken_networks(std::span<const Route> routes,
                                        std::span<const LocalAddress> addresses);

}  // namespace mayfly::cli
