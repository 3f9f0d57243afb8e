// A guest's network as root makes it: a tap, an address range of its own, and address translation.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "cli/ipv4.h"
#include "cli/keeper.h"
#include "cli/network_registry.h"
#include "cli/publish.h"

namespace mayfly::cli {

struct TapNetwork {
  std::string tap;
  Ipv4Network host;  // its address there, with the prefix that both sides have
  Ipv4 guest;
  std::uint16_t mtu = 0;
};

// Makes one that no other run has, and tells the keeper before there is anything to undo. What dead runs left
// behind, whose keeper was killed as well, is taken away first. `nameservers`: what the guest may ask on
// this host, besides the host's address on the tap.
//
// Where the host does not forward IPv4 as a whole, each of its interfaces with a route does from now on, and
// nothing passes between them. The last run takes that back, unless the whole host forwards by then: somebody
// else needs it.
base::Result<TapNetwork> make_tap_network(Keeper& keeper, const std::vector<Ipv4>& nameservers,
                                          const std::vector<Publish>& publishes);

// Undoes it, as far as there is something. Every step is tried; the error is the first one's.
base::Status remove_tap_network(NetworkRegistry& registry, unsigned slot);

}  // namespace mayfly::cli
