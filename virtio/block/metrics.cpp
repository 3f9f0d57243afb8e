#include "virtio/block/metrics.h"

namespace mayfly::virtio::block {

// Where Firecracker counts the same, the names are those that its clients know.
std::vector<base::Metric> list(const Metrics& m) {
  return {
      {"read_count", m.reads},
      {"write_count", m.writes},
      {"flush_count", m.flushes},
      {"discard_count", m.discards},
      {"write_zeroes_count", m.write_zeroes},
      {"read_bytes", m.read_bytes},
      {"write_bytes", m.written_bytes},
      {"invalid_reqs_count", m.malformed_requests},
      {"unsupported_reqs_count", m.unsupported_requests},
      {"out_of_range_reqs_count", m.out_of_range},
      {"read_only_writes_count", m.read_only_writes},
      {"read_fails", m.read_errors},
      {"write_fails", m.write_errors},
      {"flush_fails", m.flush_errors},
      {"discard_fails", m.discard_errors},
      {"short_reads_count", m.short_reads},
      {"no_space_count", m.no_space},
      {"malformed_queues_count", m.malformed_queues},
      {"rate_limiter_throttled_events", m.throttled},
      {"update_count", m.updates},
  };
}

}  // namespace mayfly::virtio::block
