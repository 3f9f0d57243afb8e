#include "cli/tap_network.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "cli/nat.h"
#include "cli/tap.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;

namespace {

// What a tunnel or an unusual link leaves of it still works: IPv4 goes down to 68, but programs expect more.
constexpr std::uint16_t kLeastMtu = 576;
constexpr std::uint16_t kMostMtu = 9000;
constexpr std::uint16_t kUsualMtu = 1500;

bool is_tap_of_ours(const std::string& interface) {
  return interface.starts_with(kTapPrefix);
}

Status first_error(Status first, Status then) {
  return first ? std::move(then) : std::move(first);
}

// Takes away what runs left that are gone. Returns the slots that others have, in whatever way.
std::set<unsigned> heal(NetworkRegistry& registry) {
  std::set<unsigned> busy;
  for (const unsigned slot : tap_slots()) {
    bool gone = registry.take(slot);
    if (gone) {
      // In use without a lock: a run that does not see our list (another container on this network).
      gone = remove_idle_tap(tap_name(slot)) == Removal::kDone;
      // Afterwards, so that a table never stays without the tap that it is found by.
      if (gone) static_cast<void>(remove_nat(tap_name(slot)));
      registry.leave(slot);
    }
    if (!gone) busy.insert(slot);
  }
  return busy;
}

struct Slot {
  unsigned number;
  Ipv4Network network;
};

Result<Slot> take_slot(NetworkRegistry& registry, const std::vector<Route>& routes) {
  const std::set<unsigned> busy = heal(registry);
  const auto taken = taken_networks(routes, TRY(read_addresses()));
  for (unsigned slot = 0; slot < kMostGuestNetworks; ++slot) {
    if (busy.contains(slot) || !registry.take(slot)) continue;
    if (const auto network = guest_network(slot, taken)) return Slot{slot, *network};
    registry.leave(slot);
  }
  return fail("--net: every private address range that Mayfly uses is routed on this host; use --net=passt");
}

// The interfaces that forward because of us, this run included.
Result<std::vector<std::string>> forward_everywhere(NetworkRegistry& registry,
                                                    const std::vector<Route>& routes) {
  std::vector<std::string> ours = registry.forwarding();
  if (forwards()) return ours;
  for (const Route& route : routes) {
    const std::string& name = route.interface;
    if (is_tap_of_ours(name) || forwards(name)) continue;
    // Noted first: whoever clears away after us must know.
    if (std::ranges::find(ours, name) == ours.end()) ours.push_back(name);
    TRY(registry.set_forwarding(ours));
    if (const Status set = set_forwards(name, true); !set) {
      return fail_because(set.error(), "--net: have {} forward packets (or use --net=passt)", name);
    }
  }
  return ours;
}

std::uint16_t mtu_for(const Route& out) {
  const std::uint16_t mtu = mtu_of(out.interface);
  return mtu == 0 ? kUsualMtu : std::clamp(mtu, kLeastMtu, kMostMtu);
}

}  // namespace

Result<TapNetwork> make_tap_network(Keeper& keeper, const std::vector<Ipv4>& nameservers,
                                    const std::vector<Publish>& publishes) {
  const std::vector<Route> routes = TRY(read_routes());
  const Route* const out = default_route(routes);
  if (out == nullptr) {
    return fail("--net: this host has no default route, so its guests would not get anywhere (ip route)");
  }
  NetworkRegistry registry = TRY(NetworkRegistry::open());
  TapNetwork network;
  NatPlan plan;
  {
    const auto turn = TRY(registry.turn());
    const Slot slot = TRY(take_slot(registry, routes));
    TRY(keeper.watch_over_network(registry.fd(), slot.number));
    network = {.tap = tap_name(slot.number),
               .host = {.address = {slot.network.address.value + 1}, .prefix = slot.network.prefix},
               .guest = {slot.network.address.value + 2},
               .mtu = mtu_for(*out)};
    TRY(make_tap(network.tap, network.host, network.mtu));
    TRY(set_forwards(network.tap, true));
    plan.fenced = TRY(forward_everywhere(registry, routes));
  }
  plan.tap = network.tap;
  plan.guest = network.guest;
  plan.nameservers = nameservers;
  plan.nameservers.push_back(network.host.address);
  plan.publishes = publishes;
  TRY(apply_nat(plan));
  return network;
}

Status remove_tap_network(NetworkRegistry& registry, unsigned slot) {
  const std::string name = tap_name(slot);
  Status done = remove_nat(name);
  done = first_error(std::move(done), remove_tap(name));
  const auto turn = registry.turn();
  if (!turn) return first_error(std::move(done), std::unexpected(turn.error()));
  registry.leave(slot);
  if (registry.others()) return done;
  if (!forwards()) {
    // An interface that is gone has taken its setting along.
    for (const std::string& each : registry.forwarding()) static_cast<void>(set_forwards(each, false));
  }
  done = first_error(std::move(done), registry.set_forwarding({}));
  registry.remove_file();
  return done;
}

}  // namespace mayfly::cli
