// The TCP port of the metadata service: its connections, and resets for what belongs to none.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "mmds/clock.h"
#include "mmds/config.h"
#include "mmds/connection.h"
#include "mmds/metrics.h"
#include "mmds/packet.h"
#include "mmds/siphash.h"

namespace mayfly::mmds {

inline constexpr std::uint16_t kPort = 80;
inline constexpr std::size_t kMostConnections = 64;
// Of which the peer has answered nothing yet; so SYNs without end leave room for those who mean it.
inline constexpr std::size_t kMostHalfOpen = kMostConnections / 2;
// A connection that did nothing of use for so long may lose its place to a new one.
inline constexpr std::chrono::seconds kIdle{2};
inline constexpr std::chrono::seconds kIdleHalfOpen{1};
// Resets that wait for the guest to have room for them.
inline constexpr std::size_t kMostResets = 16;

// A SYN that there is no place for is dropped: its sender tries again, and finds one when others are done.
class Listener {
 public:
  // Called when a connection has news: something to read, or all that was sent has arrived.
  using Application = std::function<void(Connection& connection, Time now)>;

  // `secret`: for initial sequence numbers. `metrics` outlives this.
  Listener(const Ipv4Address& address, const SipKey& secret, Application application, Metrics& metrics);

  void receive(const Received& received, Time now);

  struct Outgoing {
    MacAddress mac{};
    Ipv4Address ip{};
    Segment segment;
  };
  [[nodiscard]] bool wants_to_send() const;
  // Where wants_to_send(). Connections take turns. Valid until the next call of anything here.
  Outgoing next(Time now);

  // When to call tick(), if nothing arrives before.
  [[nodiscard]] std::optional<Time> deadline() const;
  void tick(Time now);

  // Forgets all connections, without a word to the peers.
  void clear();
  [[nodiscard]] std::size_t size() const { return entries_.size(); }

 private:
  struct Peer {
    Ipv4Address ip{};
    std::uint16_t port = 0;
    bool operator==(const Peer&) const = default;
  };
  struct Entry {
    Peer peer;
    MacAddress mac{};
    Connection connection;
  };
  Entry* find(const Peer& peer);
  void accept(const Received& received, const Peer& peer, Time now);
  bool make_room(Time now);
  void reset(const Received& received);
  [[nodiscard]] std::uint32_t initial_sequence(const Peer& peer, Time now) const;
  void erase(std::size_t index);
  void sweep();

  const Ipv4Address address_;
  const SipKey secret_;
  const Application application_;
  Metrics& metrics_;
  std::vector<Entry> entries_;
  std::size_t turn_ = 0;  // the entry that may speak next
  std::deque<Outgoing> resets_;
};

}  // namespace mayfly::mmds
