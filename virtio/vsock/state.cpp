#include "virtio/vsock/state.h"

namespace mayfly::virtio::vsock {

// Where Firecracker counts the same, the names are those that its clients know: rx is to the guest.
std::vector<base::Metric> list(const Counters& c) {
  return {
      {"conns_added", c.connections_from_guest + c.connections_from_host},
      {"conns_from_guest_count", c.connections_from_guest},
      {"conns_from_host_count", c.connections_from_host},
      {"refused_from_guest_count", c.refused_from_guest},
      {"refused_from_host_count", c.refused_from_host},
      {"bad_connect_lines_count", c.bad_connect_lines},
      {"rx_packets_count", c.packets_to_guest},
      {"rx_bytes_count", c.bytes_to_guest},
      {"tx_packets_count", c.packets_from_guest},
      {"tx_bytes_count", c.bytes_from_guest},
      {"resets_sent_count", c.resets_sent},
      {"resets_received_count", c.resets_received},
      {"malformed_packets_count", c.malformed_packets},
      {"protocol_violations_count", c.protocol_violations},
      {"close_timeouts_count", c.close_timeouts},
      {"host_socket_fails", c.host_errors},
      {"short_buffers_count", c.short_chains},
      {"malformed_queues_count", c.queue_errors},
  };
}

}  // namespace mayfly::virtio::vsock
