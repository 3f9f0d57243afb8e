// What a network device counts.
#pragma once

#include <cstdint>
#include <vector>

#include "base/metric.h"

namespace mayfly::virtio::net {

// Since the device was made. Bytes are of frames, without struct virtio_net_hdr.
struct Metrics {
  std::uint64_t rx_frames = 0;
  std::uint64_t rx_bytes = 0;
  std::uint64_t rx_too_large = 0;      // lost: the driver had too little room
  std::uint64_t rx_unfit = 0;          // lost: too short, or with an offload that the driver did not take
  std::uint64_t rx_small_buffers = 0;  // of the driver's, without room for a header
  std::uint64_t rx_waits = 0;          // for the driver to add buffers
  std::uint64_t rx_throttled = 0;      // how often frames had to wait for the rate limiter
  std::uint64_t rx_errors = 0;         // of the tap
  std::uint64_t tx_frames = 0;
  std::uint64_t tx_bytes = 0;
  std::uint64_t tx_malformed = 0;  // dropped, as in all of the next three: length, offloads, checksum
  std::uint64_t tx_spoofed = 0;    // from another MAC than the guest's
  std::uint64_t tx_errors = 0;     // of the tap
  std::uint64_t tx_link_down = 0;  // the link was down
  std::uint64_t tx_waits = 0;      // for the tap to have room
  std::uint64_t tx_throttled = 0;  // how often frames had to wait for the rate limiter
  std::uint64_t link_changes = 0;
  std::uint64_t malformed_queues = 0;
};

// By name, in a fixed order.
std::vector<base::Metric> list(const Metrics& metrics);

}  // namespace mayfly::virtio::net
