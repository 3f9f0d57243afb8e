// Which clusters of an overlaid disk are where: two bits each.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "base/result.h"

namespace mayfly::virtio::block::overlay {

enum class ClusterState : std::uint8_t {
  kBase = 0,  // as in the base
  kData = 1,  // in the overlay file
  kZero = 2,  // zeros
};

struct ClusterCounts {
  std::uint64_t base = 0;
  std::uint64_t data = 0;
  std::uint64_t zero = 0;
};

// Not thread-safe.
class ClusterMap {
 public:
  // All clusters are the base's. `clusters` > 0; `size`: bytes of the map in the file, enough for them.
  static base::Result<ClusterMap> create(std::uint64_t clusters, std::uint64_t size);

  // A block of kMapBlock bytes of the map as the file has it; only before any set().
  void load(std::uint64_t block, std::span<const std::byte> bytes);
  // Whether what was loaded is a map: an error names the entry.
  [[nodiscard]] base::Status check() const;

  [[nodiscard]] std::uint64_t clusters() const { return clusters_; }
  [[nodiscard]] ClusterState at(std::uint64_t cluster) const {
    return static_cast<ClusterState>(bits(cluster));
  }
  // How many clusters from `first` on have its state; at least 1, at most `most` (> 0), none past the end.
  [[nodiscard]] std::uint64_t run(std::uint64_t first, std::uint64_t most) const;
  void set(std::uint64_t first, std::uint64_t count, ClusterState state);
  [[nodiscard]] ClusterCounts count() const;

  // A part of the map, bytes, that was changed since it was last clean; adjoining blocks come as one.
  struct Part {
    std::uint64_t offset;
    std::span<const std::byte> bytes;
  };
  [[nodiscard]] bool dirty() const { return dirty_blocks_ > 0; }
  // The first such part at or after `offset`, a multiple of kMapBlock.
  [[nodiscard]] std::optional<Part> next_dirty(std::uint64_t offset) const;
  void mark_clean();

 private:
  ClusterMap(base::Mapping bytes, std::uint64_t clusters);
  [[nodiscard]] unsigned bits(std::uint64_t cluster) const;
  void set_one(std::uint64_t cluster, ClusterState state);

  base::Mapping bytes_;
  std::uint64_t clusters_;
  std::vector<bool> dirty_;  // by block
  std::uint64_t dirty_blocks_ = 0;
};

}  // namespace mayfly::virtio::block::overlay
