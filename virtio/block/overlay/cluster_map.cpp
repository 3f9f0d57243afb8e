#include "virtio/block/overlay/cluster_map.h"

#include <algorithm>

#include "virtio/block/overlay/format.h"

namespace mayfly::virtio::block::overlay {

using base::fail;
using base::Result;
using base::Status;

namespace {

constexpr unsigned kMask = 3;

// Four clusters of one state.
constexpr std::byte filled_with(ClusterState state) {
  return static_cast<std::byte>(static_cast<unsigned>(state) * 0x55U);
}

constexpr unsigned shift_of(std::uint64_t cluster) {
  return static_cast<unsigned>(cluster % kClustersPerMapByte) * 2;
}

}  // namespace

Result<ClusterMap> ClusterMap::create(std::uint64_t clusters, std::uint64_t size) {
  return ClusterMap(TRY(base::Mapping::anonymous(size)), clusters);
}

ClusterMap::ClusterMap(base::Mapping bytes, std::uint64_t clusters)
    : bytes_(std::move(bytes)), clusters_(clusters), dirty_(bytes_.size() / kMapBlock) {}

void ClusterMap::load(std::uint64_t block, std::span<const std::byte> bytes) {
  // Memory that is only read stays unallocated: most of a map is zero.
  if (std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; })) return;
  std::ranges::copy(bytes, bytes_.bytes().subspan(block * kMapBlock, kMapBlock).begin());
}

Status ClusterMap::check() const {
  const std::uint64_t entries = bytes_.size() * kClustersPerMapByte;
  for (std::uint64_t at = 0; at < bytes_.size(); ++at) {
    if (bytes_.bytes()[at] == std::byte{0}) continue;
    for (std::uint64_t i = at * kClustersPerMapByte; i < (at + 1) * kClustersPerMapByte; ++i) {
      if (bits(i) > static_cast<unsigned>(ClusterState::kZero)) {
        return fail("its map is damaged: cluster {} has the state {}, which means nothing", i, bits(i));
      }
      if (i >= clusters_ && bits(i) != 0) {
        return fail("its map is damaged: entry {} of {} is set, and the disk has {} clusters", i, entries,
                    clusters_);
      }
    }
  }
  return {};
}

unsigned ClusterMap::bits(std::uint64_t cluster) const {
  const std::byte four = bytes_.bytes()[cluster / kClustersPerMapByte];
  return (std::to_integer<unsigned>(four) >> shift_of(cluster)) & kMask;
}

std::uint64_t ClusterMap::run(std::uint64_t first, std::uint64_t most) const {
  const ClusterState state = at(first);
  const std::uint64_t end = first + std::min(most, clusters_ - first);
  std::uint64_t cluster = first + 1;
  while (cluster < end) {
    if (cluster % kClustersPerMapByte == 0 && end - cluster >= kClustersPerMapByte &&
        bytes_.bytes()[cluster / kClustersPerMapByte] == filled_with(state)) {
      cluster += kClustersPerMapByte;
    } else if (at(cluster) == state) {
      ++cluster;
    } else {
      break;
    }
  }
  return cluster - first;
}

void ClusterMap::set_one(std::uint64_t cluster, ClusterState state) {
  std::byte& four = bytes_.bytes()[cluster / kClustersPerMapByte];
  const unsigned shift = shift_of(cluster);
  const unsigned others = std::to_integer<unsigned>(four) & ~(kMask << shift);
  four = static_cast<std::byte>(others | (static_cast<unsigned>(state) << shift));
}

void ClusterMap::set(std::uint64_t first, std::uint64_t count, ClusterState state) {
  if (count == 0) return;
  const std::uint64_t end = first + count;
  std::uint64_t cluster = first;
  while (cluster < end && cluster % kClustersPerMapByte != 0) set_one(cluster++, state);
  if (const std::uint64_t whole = (end - cluster) / kClustersPerMapByte; whole > 0) {
    std::ranges::fill(bytes_.bytes().subspan(cluster / kClustersPerMapByte, whole), filled_with(state));
    cluster += whole * kClustersPerMapByte;
  }
  while (cluster < end) set_one(cluster++, state);

  constexpr std::uint64_t kClustersPerBlock = kMapBlock * kClustersPerMapByte;
  for (std::uint64_t block = first / kClustersPerBlock; block <= (end - 1) / kClustersPerBlock; ++block) {
    if (!dirty_[block]) ++dirty_blocks_;
    dirty_[block] = true;
  }
}

ClusterCounts ClusterMap::count() const {
  ClusterCounts counts;
  for (std::uint64_t cluster = 0; cluster < clusters_;) {
    const std::uint64_t length = run(cluster, clusters_);
    switch (at(cluster)) {
      case ClusterState::kBase:
        counts.base += length;
        break;
      case ClusterState::kData:
        counts.data += length;
        break;
      case ClusterState::kZero:
        counts.zero += length;
        break;
    }
    cluster += length;
  }
  return counts;
}

std::optional<ClusterMap::Part> ClusterMap::next_dirty(std::uint64_t offset) const {
  const auto begin =
      std::find(dirty_.begin() + static_cast<std::ptrdiff_t>(offset / kMapBlock), dirty_.end(), true);
  if (begin == dirty_.end()) return std::nullopt;
  const auto end = std::find(begin, dirty_.end(), false);
  const auto first = static_cast<std::uint64_t>(begin - dirty_.begin()) * kMapBlock;
  const auto length = static_cast<std::uint64_t>(end - begin) * kMapBlock;
  return Part{.offset = first, .bytes = bytes_.bytes().subspan(first, length)};
}

void ClusterMap::mark_clean() {
  if (!dirty()) return;
  std::fill(dirty_.begin(), dirty_.end(), false);
  dirty_blocks_ = 0;
}

}  // namespace mayfly::virtio::block::overlay
