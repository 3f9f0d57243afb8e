// What the metadata service counts for one network interface.
#pragma once

#include <cstdint>
#include <vector>

#include "base/metric.h"

namespace mayfly::mmds {

// Since the interface was made. Received is what the guest sent; bytes are of frames.
struct Metrics {
  std::uint64_t rx_count = 0;             // frames that were for the service
  std::uint64_t rx_accepted = 0;          // of them: ARP requests and TCP segments, taken
  std::uint64_t rx_accepted_err = 0;      // of them: dropped, cut or with a wrong checksum
  std::uint64_t rx_accepted_unusual = 0;  // of them: dropped, well-formed and of no use here (UDP, fragments,
                                          // SYNs beyond the limit, segments of no connection)
  std::uint64_t rx_bad_eth = 0;           // of them: dropped, from an address that is no station's
  std::uint64_t tx_frames = 0;            // made for the guest
  std::uint64_t tx_bytes = 0;
  std::uint64_t tx_count = 0;   // that were put into the guest's receive queue
  std::uint64_t tx_errors = 0;  // that found too small receive buffers, or were too many to wait
  std::uint64_t connections_created = 0;
  std::uint64_t connections_destroyed = 0;
  std::uint64_t rx_invalid_token = 0;  // GET requests with a token that is none, or not any more
  std::uint64_t rx_no_token = 0;       // GET requests without one; both count with version 1, too
};

// By name, in a fixed order.
std::vector<base::Metric> list(const Metrics& metrics);

}  // namespace mayfly::mmds
