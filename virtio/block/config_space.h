// The block device's configuration space (virtio 1.2, section 5.2.4).
#pragma once

#include <array>
#include <cstdint>

#include "base/endian.h"
#include "virtio/block/medium.h"

namespace mayfly::virtio::block {

// The whole of it; a field that we do not offer the feature for is zero.
struct ConfigSpace {
  base::Le64 capacity;  // sectors of 512 bytes
  base::Le32 size_max;
  base::Le32 seg_max;
  base::Le32 geometry;
  base::Le32 blk_size;
  std::uint8_t physical_block_exp = 0;
  std::uint8_t alignment_offset = 0;
  base::Le16 min_io_size;  // blocks of blk_size
  base::Le32 opt_io_size;
  std::uint8_t writeback = 0;
  std::uint8_t unused0 = 0;
  base::Le16 num_queues;
  base::Le32 max_discard_sectors;
  base::Le32 max_discard_seg;
  base::Le32 discard_sector_alignment;
  base::Le32 max_write_zeroes_sectors;
  base::Le32 max_write_zeroes_seg;
  std::uint8_t write_zeroes_may_unmap = 0;
  std::array<std::uint8_t, 3> unused1{};
  base::Le32 max_secure_erase_sectors;
  base::Le32 max_secure_erase_seg;
  base::Le32 secure_erase_sector_alignment;
};
static_assert(sizeof(ConfigSpace) == 72 && base::Wire<ConfigSpace>);

// Everything but the capacity. `segments`: a request's most; `discards`: DISCARD and WRITE_ZEROES are
// offered.
ConfigSpace describe(const Geometry& geometry, std::uint32_t segments, bool discards);

// Section 5.2.3: with SIZE_MAX and SEG_MAX, a request moves at most 254 MiB.
inline constexpr std::uint32_t kLargestSegment = 1U << 20U;

}  // namespace mayfly::virtio::block
