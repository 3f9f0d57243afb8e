// Connections and datagrams that mayfly itself passes on.
#pragma once

#include <memory>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/ipv4.h"

namespace mayfly::cli {

struct Endpoint {
  Ipv4 address;
  std::uint16_t port = 0;
};

// From a socket of the host's to an address. What comes to a published port from the host itself takes this
// way: the kernel translates addresses only of what comes from outside, unless it is told to route loopback
// addresses, and then a guest would reach what listens there.
//
// Bounded: kMostPeers at once; further connections wait, and of further senders of datagrams the one that was
// silent for the longest is forgotten. Lives on the loop's thread.
class Relay {
 public:
  static constexpr std::size_t kMostPeers = 128;

  // `socket` is bound and does not block; with `udp` it takes datagrams, else it is made to listen.
  static base::Result<std::unique_ptr<Relay>> create(base::EventLoop& loop, base::UniqueFd socket, bool udp,
                                                     Endpoint target);
  virtual ~Relay() = default;
};

}  // namespace mayfly::cli
