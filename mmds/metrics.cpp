#include "mmds/metrics.h"

namespace mayfly::mmds {

// The names are those that Firecracker's clients know.
std::vector<base::Metric> list(const Metrics& m) {
  return {
      {"rx_count", m.rx_count},
      {"rx_accepted", m.rx_accepted},
      {"rx_accepted_err", m.rx_accepted_err},
      {"rx_accepted_unusual", m.rx_accepted_unusual},
      {"rx_bad_eth", m.rx_bad_eth},
      {"tx_frames", m.tx_frames},
      {"tx_bytes", m.tx_bytes},
      {"tx_count", m.tx_count},
      {"tx_errors", m.tx_errors},
      {"connections_created", m.connections_created},
      {"connections_destroyed", m.connections_destroyed},
      {"rx_invalid_token", m.rx_invalid_token},
      {"rx_no_token", m.rx_no_token},
  };
}

}  // namespace mayfly::mmds
