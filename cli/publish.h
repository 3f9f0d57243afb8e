// --publish: ports of the host that lead to the guest.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/ipv4.h"

namespace mayfly::cli {

struct Publish {
  std::optional<Ipv4> address;  // of the host; absent: every one
  std::uint16_t host_port = 0;
  std::uint16_t guest_port = 0;
  bool udp = false;
  std::string text;  // as it was given, for errors
};

// [ADDRESS:]HOST:GUEST[/tcp|/udp], ports 1-65535. Errors name the option.
base::Result<Publish> parse_publish(const std::string& text);

// Whether two of them are after the same port.
bool conflict(const Publish& one, const Publish& other);

// A socket with the host's port, TCP or UDP, non-blocking and not listening; errors say who may be in the
// way.
base::Result<base::UniqueFd> bind_port(const Publish& publish);

}  // namespace mayfly::cli
