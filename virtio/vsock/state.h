// What is counted, and what a snapshot keeps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/metric.h"

namespace mayfly::virtio::vsock {

// Since the device was created. Read them under the device's mutex.
struct Counters {
  std::uint64_t connections_from_guest = 0;  // the guest asked, a host listener took it
  std::uint64_t connections_from_host = 0;   // the host asked, the guest took it
  std::uint64_t refused_from_guest = 0;      // no listener, its backlog full, or our limits reached
  std::uint64_t refused_from_host = 0;       // the guest answered RST, or not in time
  std::uint64_t bad_connect_lines = 0;       // host programs that did not say CONNECT <port>
  std::uint64_t packets_from_guest = 0;
  std::uint64_t packets_to_guest = 0;
  std::uint64_t bytes_from_guest = 0;  // payload
  std::uint64_t bytes_to_guest = 0;
  std::uint64_t resets_sent = 0;
  std::uint64_t resets_received = 0;
  std::uint64_t malformed_packets = 0;    // by their header alone: dropped, or answered with RST
  std::uint64_t protocol_violations = 0;  // well-formed, but not allowed then: answered with RST
  std::uint64_t close_timeouts = 0;       // no RST to our SHUTDOWN in time
  std::uint64_t host_errors = 0;          // a host socket failed
  std::uint64_t short_chains = 0;         // receive buffers too small for a packet, returned empty
  std::uint64_t queue_errors = 0;         // malformed queues: the device needed a reset
};

// By name, in a fixed order.
std::vector<base::Metric> list(const Counters& counters);

// Connections do not outlive a snapshot: their other ends are programs on this host.
struct State {
  std::uint32_t guest_cid = 0;
  std::string uds_path;
  Counters counters;
};

}  // namespace mayfly::virtio::vsock
