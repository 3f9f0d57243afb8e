#include "virtio/block/config_space.h"

#include <algorithm>
#include <bit>

#include "virtio/block/request.h"

namespace mayfly::virtio::block {

ConfigSpace describe(const Geometry& geometry, std::uint32_t segments, bool discards) {
  constexpr auto kSector = static_cast<std::uint32_t>(kSectorSize);
  ConfigSpace space;
  space.size_max = kLargestSegment;
  space.seg_max = segments;
  space.blk_size = kSector;
  space.physical_block_exp = static_cast<std::uint8_t>(std::countr_zero(geometry.physical_block / kSector));
  space.min_io_size = static_cast<std::uint16_t>(std::min(geometry.least_io / kSector, 0xffffU));
  space.opt_io_size = geometry.best_io / kSector;
  if (!discards) return space;
  space.max_discard_sectors = kDiscardLimits.sectors;
  space.max_discard_seg = kDiscardLimits.segments;
  space.discard_sector_alignment = geometry.discard_block / kSector;
  space.max_write_zeroes_sectors = kWriteZeroesLimits.sectors;
  space.max_write_zeroes_seg = kWriteZeroesLimits.segments;
  space.write_zeroes_may_unmap = 1;
  return space;
}

}  // namespace mayfly::virtio::block
