// An overlay and its base as one raw image.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.h"
#include "virtio/block/overlay/overlay.h"

namespace mayfly::virtio::block::overlay {

// Writes the whole disk into `fd`, an empty regular file; what is zero stays a hole. `progress` is told how
// many bytes of the disk are done, after each MiB or so, and gives up by returning false: ECANCELED. Nothing
// is synced.
base::Status flatten(Overlay& overlay, int fd, const std::function<bool(std::uint64_t done)>& progress);

}  // namespace mayfly::virtio::block::overlay
