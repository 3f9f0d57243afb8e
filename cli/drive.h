// What `mayfly drive` does with overlays.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "virtio/block/overlay/overlay_file.h"

namespace mayfly::cli {

// In KiB below a MiB, else in MiB.
std::string as_size(std::uint64_t bytes);

std::string as_text(const std::string& path, const virtio::block::overlay::Summary& summary);
// {"overlay", "base", "base_state", "disk_bytes", "cluster_bytes", "clusters": {"total", "written", "zeroed",
// "base"}, "on_disk_bytes", "state": "clean"|"in use"|"not closed"}
std::string as_json(const std::string& path, const virtio::block::overlay::Summary& summary);

struct FlattenRequest {
  std::string overlay;
  std::string base;    // "": the one that the overlay names
  std::string output;  // a new file, or with `replace` a regular file that is replaced once all is written
  bool replace = false;
};

struct FlattenSummary {
  std::uint64_t size_bytes = 0;  // the file is sparse
  std::uint64_t disk_bytes = 0;  // that it takes
};

// After two seconds, says on standard error how far it is. On failure, and when SIGINT, SIGTERM or SIGHUP
// comes in between, nothing is left behind; those signals are blocked while it runs.
base::Result<FlattenSummary> flatten(const FlattenRequest& request);

}  // namespace mayfly::cli
