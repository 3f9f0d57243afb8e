// Overlays by path: made, locked, and matched with their base.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "virtio/block/overlay/overlay.h"

namespace mayfly::virtio::block::overlay {

// Each error names the file, what is wrong with it, and what to do. A base is a regular file or a block
// device, and no overlay itself; of a block device only size and samples are compared, not the time.

// The overlay at `path` on the base at `base`, to be written by the caller alone until it is destroyed: a
// second one that opens it is refused. Made first if there is nothing at `path`.
base::Result<std::unique_ptr<Overlay>> open_overlay(const std::string& path, const std::string& base);

// To be read, by any number of readers, while nobody writes to it. An empty `base`: the one it names.
base::Result<std::unique_ptr<Overlay>> open_overlay_to_read(const std::string& path, const std::string& base);

// A new overlay at `path`, where there is nothing yet: it appears there whole or not at all. `cluster_size`
// in bytes; 0: what suits the base's size.
base::Status create_overlay(const std::string& path, const std::string& base, std::uint32_t cluster_size);

// What can be told of an overlay without its base, also while it is in use.
struct Summary {
  Description description;
  ClusterCounts clusters;  // as of the last flush
  std::uint64_t disk_bytes = 0;
  bool in_use = false;  // by somebody who writes
  bool clean = true;    // nobody writes, and the last who did closed it
  std::string base_path;
  base::Status base_state;  // an error: why it cannot be used with that base
};
base::Result<Summary> inspect_overlay(const std::string& path, const std::string& base);

}  // namespace mayfly::virtio::block::overlay
