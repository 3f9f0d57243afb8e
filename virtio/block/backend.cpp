#include "virtio/block/backend.h"

namespace mayfly::virtio::block {

base::Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path, const Opening& opening) {
  auto file = TRY(File::open(path, opening.read_only));
  return make_sync_backend(std::move(file), opening.completions);
}

}  // namespace mayfly::virtio::block
