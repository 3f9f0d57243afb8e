// The metadata service on one network interface: frames in, frames out.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>

#include "base/result.h"
#include "mmds/clock.h"
#include "mmds/listener.h"
#include "mmds/metrics.h"
#include "mmds/packet.h"
#include "mmds/service.h"

namespace mayfly::mmds {

// What the service's interface is called on the guest's network: locally administered, the same everywhere.
inline constexpr MacAddress kMacAddress = {0x02, 0x4d, 0x4d, 0x44, 0x53, 0x01};

// ARP replies that wait for the guest to have room for them.
inline constexpr std::size_t kMostArpReplies = 8;

// Used under one mutex, the network device's. What it holds is bounded, whatever the guest sends:
// kMostConnections with kReceiveBuffer and an answer each, kMostResets, kMostArpReplies.
class Responder {
 public:
  static base::Result<std::unique_ptr<Responder>> create(std::shared_ptr<const Service> service);
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // Whether receive() is to have a frame that starts with these bytes (kFrameHead, or all of it).
  [[nodiscard]] bool concerns(std::span<const std::byte> frame_head) const {
    return mmds::concerns(frame_head, address_);
  }
  // A frame of the guest's. `checksum_left`: parse_tcp().
  void receive(std::span<const std::byte> frame, bool checksum_left, Time now);

  // Whether there is a frame for the guest.
  [[nodiscard]] bool wants_to_send() const { return !arp_replies_.empty() || listener_.wants_to_send(); }
  // Where there is: puts it to the front of `out` (kLargestReply bytes) and says its length.
  std::size_t next(std::span<std::byte> out, Time now);

  // When to call tick(), if nothing arrives before.
  [[nodiscard]] std::optional<Time> deadline() const { return listener_.deadline(); }
  void tick(Time now) { listener_.tick(now); }

  // Forgets the guest.
  void reset();

  [[nodiscard]] Metrics& metrics() { return metrics_; }

 private:
  Responder(std::shared_ptr<const Service> service, const SipKey& secret);
  void receive_arp(std::span<const std::byte> frame);
  void receive_tcp(std::span<const std::byte> frame, bool checksum_left, Time now);
  void drop(Drop why);
  void serve(Connection& connection, Time now);

  const std::shared_ptr<const Service> service_;
  const Ipv4Address address_;
  Metrics metrics_;
  Listener listener_;
  std::deque<ArpRequest> arp_replies_;
};

}  // namespace mayfly::mmds
