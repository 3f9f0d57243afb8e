// The name servers that a guest is told of.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/ipv4.h"

namespace mayfly::cli {

struct Resolvers {
  std::vector<Ipv4> servers;        // as many as resolv.conf(5) knows
  std::vector<std::string> search;  // domains, of letters, digits, -, _ and .
};

// The text of a resolv.conf(5); servers that are not IPv4 are left out, and so is what makes no sense.
Resolvers parse_resolvers(std::string_view text);

// From the first of `files` that has servers outside of this host's loopback, which no guest reaches. When
// none has, `servers` is empty and `search` that of the first file.
Resolvers find_resolvers(std::span<const std::string> files);
// /etc/resolv.conf, and where systemd-resolved and NetworkManager keep the real ones.
Resolvers find_resolvers();

}  // namespace mayfly::cli
