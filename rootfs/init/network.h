// The guest's way out: one interface with what the host says of it.
#pragma once

#include <string_view>

#include "rootfs/init/mounts.h"

namespace mayfly::init {

// As they are on our command line, in dotted decimal.
struct NetworkOptions {
  std::string_view address;      // ADDRESS/PREFIX, of eth0; empty: no network
  std::string_view gateway;      // where all else goes
  std::string_view nameservers;  // ADDRESS,ADDRESS,…; empty: /etc/resolv.conf is left as it is
  std::string_view search;       // DOMAIN,DOMAIN,…
};

void bring_loopback_up();

// Gives eth0 its address and the route to everywhere, and writes /etc/resolv.conf, which on a root that is
// not a scratch layer only seems to change. False, with a word on the console, when there is no such
// interface or it refuses.
bool set_up_network(const NetworkOptions& options, RootMode mode);

}  // namespace mayfly::init
