#include "virtio/block/backend.h"

#include "base/log.h"
#include "virtio/block/ring.h"

namespace mayfly::virtio::block {

base::Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path, const Opening& opening) {
  auto file = TRY(File::open(path, opening.read_only));
  if (opening.engine == IoEngine::kSync) return make_sync_backend(std::move(file), opening.completions);
  auto ring = make_uring(file->fd(), file->is_block_device());
  if (ring) return make_async_backend(std::move(file), std::move(*ring), opening);
  if (opening.engine == IoEngine::kAsync) {
    return fail_because(std::move(ring).error(), "io_engine Async cannot be had");
  }
  base::log::debug("{} is served synchronously: {}", path, ring.error().message);
  return make_sync_backend(std::move(file), opening.completions);
}

}  // namespace mayfly::virtio::block
