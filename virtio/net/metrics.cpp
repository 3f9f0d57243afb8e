#include "virtio/net/metrics.h"

namespace mayfly::virtio::net {

// Where Firecracker counts the same, the names are those that its clients know.
std::vector<base::Metric> list(const Metrics& m) {
  return {
      {"rx_packets_count", m.rx_frames},
      {"rx_bytes_count", m.rx_bytes},
      {"rx_too_large_count", m.rx_too_large},
      {"rx_unfit_count", m.rx_unfit},
      {"rx_small_buffers_count", m.rx_small_buffers},
      {"no_rx_avail_buffer", m.rx_waits},
      {"rx_rate_limiter_throttled", m.rx_throttled},
      {"rx_fails", m.rx_errors},
      {"tx_packets_count", m.tx_frames},
      {"tx_bytes_count", m.tx_bytes},
      {"tx_malformed_frames", m.tx_malformed},
      {"tx_spoofed_mac_count", m.tx_spoofed},
      {"tx_fails", m.tx_errors},
      {"tx_link_down_count", m.tx_link_down},
      {"tx_tap_full_count", m.tx_waits},
      {"tx_rate_limiter_throttled", m.tx_throttled},
      {"link_changes_count", m.link_changes},
      {"malformed_queues_count", m.malformed_queues},
  };
}

}  // namespace mayfly::virtio::net
