#include "cli/ipv4.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <sstream>

#include "base/file.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;

namespace {

// Seldom used by anybody else: the middle of 10/8, the end of 172.16/12 and of 192.168/16, and what RFC 2544
// sets aside for benchmarks. Each has room for kMostGuestNetworks.
constexpr std::array<Ipv4, 4> kRanges = {{{0x0ad5'0000}, {0xac1e'0000}, {0xc0a8'0000}, {0xc613'0000}}};

constexpr std::uint32_t kRouteUp = 1;  // RTF_UP

template <typename T>
bool parse_number(const std::string& text, T& out, int base) {
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, out, base);
  return error == std::errc{} && rest == end;
}

// As the kernel prints it there: the bytes in memory, as a number of this machine.
bool parse_address(const std::string& text, Ipv4& out) {
  std::uint32_t bytes = 0;
  if (!parse_number(text, bytes, 16)) return false;
  out.value = ntohl(bytes);
  return true;
}

std::optional<unsigned> prefix_of(std::uint32_t mask) {
  const auto prefix = static_cast<unsigned>(std::countl_one(mask));
  return Ipv4Network{.address = {}, .prefix = prefix}.mask() == mask ? std::optional(prefix) : std::nullopt;
}

std::optional<Ipv4> address_of(const sockaddr* generic) {
  if (generic == nullptr || generic->sa_family != AF_INET) return std::nullopt;
  sockaddr_in address{};
  std::memcpy(&address, generic, sizeof(address));
  return Ipv4{ntohl(address.sin_addr.s_addr)};
}

}  // namespace

std::optional<Ipv4> parse_ipv4(std::string_view text) {
  in_addr address{};
  if (::inet_pton(AF_INET, std::string(text).c_str(), &address) != 1) return std::nullopt;
  return Ipv4{ntohl(address.s_addr)};
}

std::string to_text(Ipv4 address) {
  const std::uint32_t v = address.value;
  return fmt::format("{}.{}.{}.{}", v >> 24U, v >> 16U & 0xffU, v >> 8U & 0xffU, v & 0xffU);
}

std::string to_text(const Ipv4Network& network) {
  return fmt::format("{}/{}", to_text(network.address), network.prefix);
}

std::vector<Route> parse_routes(std::string_view text) {
  std::vector<Route> routes;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    // Iface Destination Gateway Flags RefCnt Use Metric Mask …
    std::array<std::string, 8> fields;
    std::istringstream words(line);
    for (std::string& field : fields) words >> field;
    Route route{.interface = fields[0], .destination = {}, .gateway = {}};
    std::uint32_t flags = 0;
    Ipv4 mask;
    if (!parse_address(fields[1], route.destination.address) || !parse_address(fields[2], route.gateway) ||
        !parse_number(fields[3], flags, 16) || !parse_number(fields[6], route.metric, 10) ||
        !parse_address(fields[7], mask)) {
      continue;
    }
    const auto prefix = prefix_of(mask.value);
    if (!prefix || (flags & kRouteUp) == 0) continue;
    route.destination.prefix = *prefix;
    routes.push_back(std::move(route));
  }
  return routes;
}

const Route* default_route(std::span<const Route> routes) {
  const Route* best = nullptr;
  for (const Route& route : routes) {
    if (route.destination.prefix != 0) continue;
    if (best == nullptr || route.metric < best->metric) best = &route;
  }
  return best;
}

Result<std::vector<Route>> read_routes() {
  return parse_routes(TRY(base::read_file("/proc/net/route")));
}

Result<std::vector<LocalAddress>> read_addresses() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return fail_errno(errno, "ask for the addresses of this host");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(first, ::freeifaddrs);
  std::vector<LocalAddress> addresses;
  for (const ifaddrs* each = list.get(); each != nullptr; each = each->ifa_next) {
    const auto address = address_of(each->ifa_addr);
    const auto mask = address_of(each->ifa_netmask);
    if (!address) continue;
    const auto prefix = prefix_of(mask.value_or(Ipv4{~0U}).value);
    addresses.push_back({each->ifa_name, {.address = *address, .prefix = prefix.value_or(32)}});
  }
  return addresses;
}

std::optional<Ipv4Network> guest_network(unsigned slot, std::span<const Ipv4Network> taken) {
  for (const Ipv4 range : kRanges) {
    const Ipv4Network candidate{.address = {range.value + (slot << (32 - kGuestPrefix))},
                                .prefix = kGuestPrefix};
    const auto overlaps = [&](const Ipv4Network& each) { return candidate.overlaps(each); };
    if (std::ranges::none_of(taken, overlaps)) return candidate;
  }
  return std::nullopt;
}

std::vector<Ipv4Network> taken_networks(std::span<const Route> routes,
                                        std::span<const LocalAddress> addresses) {
  std::vector<Ipv4Network> taken;
  for (const Route& route : routes) {
    // Half of everywhere is a default route in disguise, as VPNs have it.
    if (route.destination.prefix > 1) taken.push_back(route.destination);
  }
  for (const LocalAddress& each : addresses) taken.push_back(each.network);
  return taken;
}

}  // namespace mayfly::cli
