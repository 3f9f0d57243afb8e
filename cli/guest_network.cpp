#include "cli/guest_network.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>
#include <utility>

#include "base/file.h"
#include "cli/resolvers.h"
#include "cli/tap_network.h"
#include "cli/tool.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr std::uint16_t kNamePort = 53;
// Where the VMM finds passt.
constexpr std::string_view kSocket = "passt";

// The host's own resolver, for guests that cannot reach it: the first that /etc/resolv.conf names. Nothing
// where that names none.
std::optional<Ipv4> loopback_resolver() {
  const auto text = base::read_file("/etc/resolv.conf");
  const Resolvers all = parse_resolvers(text ? *text : std::string());
  return all.servers.empty() ? std::nullopt : std::optional(all.servers.front());
}

void warn_of_names() {
  fmt::print(stderr,
             "mayfly: the guest gets no name server, because this host has none; give one with --dns\n");
}

// Each is bound before anything else is made: that is how a port in use is found out in time.
Result<std::vector<UniqueFd>> bind_ports(const std::vector<Publish>& publishes) {
  std::vector<UniqueFd> sockets;
  for (const Publish& each : publishes) sockets.push_back(TRY(bind_port(each)));
  return sockets;
}

struct Uplink {
  Ipv4Network guest;
  Ipv4 gateway;
};

// passt gives the guest the host's own address, which has one thing to be said for it: what listens there on
// the host is out of the guest's reach. A way out without a gateway gets addresses of its own.
Result<Uplink> find_uplink() {
  const auto routes = TRY(read_routes());
  const Route* const out = default_route(routes);
  if (out == nullptr) {
    return fail("--net: this host has no default route, so its guests would not get anywhere (ip route)");
  }
  const auto addresses = TRY(read_addresses());
  const auto ours = std::ranges::find(addresses, out->interface, &LocalAddress::interface);
  if (out->gateway.value != 0 && ours != addresses.end()) return Uplink{ours->network, out->gateway};
  const auto network = guest_network(0, taken_networks(routes, addresses));
  if (!network) return fail("--net: every private address range that Mayfly uses is routed on this host");
  return Uplink{{.address = {network->address.value + 2}, .prefix = network->prefix},
                {network->address.value + 1}};
}

}  // namespace

Result<std::unique_ptr<GuestNetwork>> GuestNetwork::create(base::EventLoop& loop, const RunOptions& options,
                                                           const VmmPlace& place, Keeper& keeper,
                                                           std::function<void(std::string)> on_loss) {
  std::unique_ptr<GuestNetwork> network(new GuestNetwork(loop, keeper, std::move(on_loss)));
  Resolvers resolvers = find_resolvers();
  network->plan_.search = std::move(resolvers.search);
  network->plan_.nameservers =
      options.nameservers.empty() ? std::move(resolvers.servers) : options.nameservers;
  const bool root = ::geteuid() == 0;
  if (options.network == NetworkMode::kTap || (options.network == NetworkMode::kAuto && root)) {
    TRY(network->start_tap(options));
  } else {
    TRY(network->start_passt(options, place));
  }
  return network;
}

// ---- A tap ----

Status GuestNetwork::start_tap(const RunOptions& options) {
  std::vector<UniqueFd> sockets = TRY(bind_ports(options.publishes));
  TRY(find_tool("nft"));
  const TapNetwork made = TRY(make_tap_network(keeper_, plan_.nameservers, options.publishes));
  plan_.tap = made.tap;
  plan_.guest = {.address = made.guest, .prefix = made.host.prefix};
  plan_.gateway = made.host.address;
  plan_.mtu = made.mtu;
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    const Publish& publish = options.publishes[i];
    relays_.push_back(
        TRY(Relay::create(loop_, std::move(sockets[i]), publish.udp, {made.guest, publish.guest_port})));
  }
  return plan_.nameservers.empty() ? relay_names() : Status{};
}

// The host's resolver listens where guests do not get to: on the tap, we do in its place.
Status GuestNetwork::relay_names() {
  const auto resolver = loopback_resolver();
  if (!resolver) {
    warn_of_names();
    return {};
  }
  for (const bool udp : {true, false}) {
    const Publish place{.address = plan_.gateway,
                        .host_port = kNamePort,
                        .guest_port = kNamePort,
                        .udp = udp,
                        .text = "for name service"};
    // In use: the resolver listens on every address, this one included.
    Result<UniqueFd> socket = bind_port(place);
    if (socket) relays_.push_back(TRY(Relay::create(loop_, std::move(*socket), udp, {*resolver, kNamePort})));
  }
  plan_.nameservers = {plan_.gateway};
  return {};
}

// ---- passt ----

Status GuestNetwork::start_passt(const RunOptions& options, const VmmPlace& place) {
  const auto found = find_tool("passt");
  if (!found) {
    const char* const other =
        ::geteuid() == 0 ? "or use --net=tap" : "or run mayfly as root, which makes a tap";
    return fail("--net: {} ({})", found.error().message, other);
  }
  // passt binds them itself.
  TRY(bind_ports(options.publishes));
  const Uplink uplink = TRY(find_uplink());
  plan_.guest = uplink.guest;
  plan_.gateway = uplink.gateway;
  plan_.mtu = kPasstMtu;
  plan_.socket_path = place.socket_inside(kSocket);
  passt_plan_ = {
      .guest = uplink.guest, .gateway = uplink.gateway, .nameserver = {}, .publishes = options.publishes};
  if (plan_.nameservers.empty() && loopback_resolver()) {
    passt_plan_.nameserver = uplink.gateway;
    plan_.nameservers = {uplink.gateway};
  } else if (plan_.nameservers.empty()) {
    warn_of_names();
  }
  listener_ = TRY(place.listen(loop_, kSocket, [this](UniqueFd socket) { connected(std::move(socket)); }));
  return {};
}

// The VMM is there. What the guest sends before passt is up waits in the socket.
void GuestNetwork::connected(UniqueFd socket) {
  auto passt = Passt::spawn(loop_, passt_plan_, std::move(socket), on_loss_);
  // Nobody else has any business here.
  listener_.reset();
  if (!passt) return on_loss_(passt.error().message);
  passt_ = std::move(*passt);
  if (const Status told = keeper_.watch_over(passt_->pidfd()); !told) on_loss_(told.error().message);
}

}  // namespace mayfly::cli
