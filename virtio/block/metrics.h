// What a block device counts.
#pragma once

#include <cstdint>
#include <vector>

#include "base/metric.h"

namespace mayfly::virtio::block {

// Since the device was made.
struct Metrics {
  std::uint64_t reads = 0;  // that succeeded, as all of the next seven
  std::uint64_t writes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t discards = 0;
  std::uint64_t write_zeroes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t malformed_requests =
      0;  // no header, no room for the answer, not whole sectors or segments, too long
  std::uint64_t unsupported_requests = 0;  // of a type that is unknown or was not negotiated, reserved flags
  std::uint64_t out_of_range = 0;
  std::uint64_t read_only_writes = 0;
  std::uint64_t read_errors = 0;  // the disk failed, as in all of the next six
  std::uint64_t write_errors = 0;
  std::uint64_t flush_errors = 0;
  std::uint64_t discard_errors = 0;  // of DISCARD and WRITE_ZEROES
  std::uint64_t short_reads = 0;     // of read_errors: the file ends before its capacity
  std::uint64_t no_space = 0;        // ENOSPC or EDQUOT
  std::uint64_t malformed_queues = 0;
  std::uint64_t throttled = 0;  // how often requests had to wait for the rate limiter
  std::uint64_t updates = 0;    // of the backing file or its size
};

// By name, in a fixed order.
std::vector<base::Metric> list(const Metrics& metrics);

}  // namespace mayfly::virtio::block
