// Numbers that are counted, by the names under which they are shown.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::base {

// Counted up since what it belongs to was made.
struct Metric {
  std::string_view name;  // of static storage
  std::uint64_t value = 0;
};

// Those of one thing: "block_rootfs", "vsock". Where an underscore is in it, the word before it is a kind of
// thing, of which there may be several.
struct MetricGroup {
  std::string name;
  std::vector<Metric> metrics;
};

}  // namespace mayfly::base
