#include "virtio/block/overlay/flatten.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace mayfly::virtio::block::overlay {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

constexpr std::uint64_t kChunk = 1U << 20U;
constexpr std::uint64_t kBlock = 4096;  // what is a hole is one of these at least

Result<std::uint64_t> read_some(Overlay& overlay, std::span<std::byte> out, std::uint64_t offset) {
  for (;;) {
    const iovec piece{.iov_base = out.data(), .iov_len = out.size()};
    const std::int64_t moved =
        overlay.perform({.kind = Call::Kind::kRead, .pieces = std::span(&piece, 1), .offset = offset});
    if (moved == -EINTR) continue;
    if (moved < 0) return fail_errno(static_cast<int>(-moved), "read the disk at offset {}", offset);
    if (moved == 0) return fail("read the disk at offset {}: its base ends there", offset);
    return static_cast<std::uint64_t>(moved);
  }
}

Status write_whole(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t moved = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (moved < 0 && errno == EINTR) continue;
    if (moved < 0) return fail_errno(errno, "write {} bytes at offset {}", bytes.size(), offset);
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
    offset += static_cast<std::uint64_t>(moved);
  }
  return {};
}

bool is_zero(std::span<const std::byte> bytes) {
  return bytes.front() == std::byte{0} && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

// All of it but blocks of zeros.
Status write_sparse(int fd, std::span<const std::byte> bytes, std::uint64_t offset) {
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    std::size_t end = begin;
    while (end < bytes.size()) {
      const auto block = bytes.subspan(end, std::min<std::size_t>(kBlock, bytes.size() - end));
      if (is_zero(block)) break;
      end += block.size();
    }
    TRY(write_whole(fd, bytes.subspan(begin, end - begin), offset + begin));
    begin = std::min<std::size_t>(end + kBlock, bytes.size());
  }
  return {};
}

}  // namespace

Status flatten(Overlay& overlay, int fd, const std::function<bool(std::uint64_t done)>& progress) {
  const std::uint64_t size = TRY(overlay.size());
  const std::uint64_t cluster = overlay.description().cluster_size;
  const ClusterMap& map = overlay.map();
  if (::ftruncate(fd, static_cast<off_t>(size)) < 0) return fail_errno(errno, "make it {} bytes long", size);
  std::vector<std::byte> buffer(kChunk);
  for (std::uint64_t offset = 0; offset < size;) {
    const std::uint64_t first = offset / cluster;
    if (offset % cluster == 0 && map.at(first) == ClusterState::kZero) {
      offset = std::min((first + map.run(first, map.clusters())) * cluster, size);
    } else {
      const auto chunk = std::span(buffer).first(std::min(kChunk, size - offset));
      const std::uint64_t moved = TRY(read_some(overlay, chunk, offset));
      TRY(write_sparse(fd, chunk.first(moved), offset));
      offset += moved;
    }
    if (!progress(offset)) return fail_errno(ECANCELED, "make an image");
  }
  return {};
}

}  // namespace mayfly::virtio::block::overlay
