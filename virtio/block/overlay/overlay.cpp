#include "virtio/block/overlay/overlay.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace mayfly::virtio::block::overlay {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

// The front of some pieces, without a copy of their bytes.
class Front {
 public:
  // At most `most` bytes (> 0), and at most kMost pieces.
  Front(std::span<const iovec> pieces, std::uint64_t most) {
    for (const iovec& piece : pieces.first(std::min(pieces.size(), kMost))) {
      const std::size_t part = std::min<std::uint64_t>(piece.iov_len, most - bytes_);
      pieces_[count_++] = {.iov_base = piece.iov_base, .iov_len = part};
      bytes_ += part;
      if (bytes_ == most) return;
    }
  }
  [[nodiscard]] std::span<const iovec> pieces() const { return std::span(pieces_).first(count_); }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  static constexpr std::size_t kMost = 256;  // a request's segments, and 4 KiB of stack
  std::array<iovec, kMost> pieces_;
  std::size_t count_ = 0;
  std::uint64_t bytes_ = 0;
};

std::uint64_t total(std::span<const iovec> pieces) {
  std::uint64_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

// All of `bytes`, or an error; 0 for success. A file that ends here has lost a part: EIO.
std::int64_t whole(Medium& medium, Call::Kind kind, std::span<std::byte> bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
    const std::int64_t moved =
        medium.perform({.kind = kind, .pieces = std::span(&piece, 1), .offset = offset});
    if (moved <= 0) return moved == 0 ? -EIO : moved;
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
    offset += static_cast<std::uint64_t>(moved);
  }
  return 0;
}

Status read_whole(Medium& medium, std::span<std::byte> bytes, std::uint64_t offset) {
  const std::int64_t result = whole(medium, Call::Kind::kRead, bytes, offset);
  if (result < 0) return fail_errno(static_cast<int>(-result), "read {} bytes at {}", bytes.size(), offset);
  return {};
}

}  // namespace

// ---- Opening and closing ----

Result<Contents> read_contents(Medium& file) {
  const std::uint64_t file_size = TRY(file.size());
  if (file_size < kHeaderSize) return fail("it has {} bytes, fewer than an overlay's header", file_size);
  HeaderBytes header;
  TRY(read_whole(file, header, 0));
  Description description = TRY(decode(header));
  base::Le32 in_use;
  std::memcpy(&in_use, header.data() + kInUseOffset, sizeof(in_use));
  if (in_use > 1) {
    return fail("its header is damaged: at {} is {}, not 0 or 1", kInUseOffset, std::uint32_t{in_use});
  }
  if (file_size != description.file_size()) {
    return fail("it has {} bytes instead of {}: it was cut off, or copied in part", file_size,
                description.file_size());
  }
  ClusterMap map = TRY(ClusterMap::create(description.clusters(), description.map_size()));
  std::array<std::byte, kMapBlock> block;
  for (std::uint64_t offset = 0; offset < description.map_size(); offset += kMapBlock) {
    TRY(read_whole(file, block, kMapOffset + offset));
    map.load(offset / kMapBlock, block);
  }
  TRY(map.check());
  return Contents{.description = std::move(description), .map = std::move(map), .in_use = in_use == 1};
}

Result<std::unique_ptr<Overlay>> Overlay::open(std::unique_ptr<Medium> file, Contents contents,
                                               std::unique_ptr<Medium> base, bool read_only) {
  if (const std::uint64_t size = TRY(base->size()); size != contents.description.base.size) {
    return fail("its base had {} bytes, and has {} now", contents.description.base.size, size);
  }
  return std::unique_ptr<Overlay>(
      new Overlay(std::move(file), std::move(contents), std::move(base), read_only));
}

Overlay::Overlay(std::unique_ptr<Medium> file, Contents contents, std::unique_ptr<Medium> base,
                 bool read_only)
    : file_(std::move(file)),
      base_(std::move(base)),
      description_(std::move(contents.description)),
      size_(description_.base.size),
      cluster_(description_.cluster_size),
      data_offset_(description_.data_offset()),
      map_(std::move(contents.map)),
      read_only_(read_only),
      in_use_(contents.in_use),
      buffer_(cluster_) {}

Status Overlay::close() {
  if (read_only_ || !in_use_) return {};
  if (const std::int64_t result = sync(); result < 0) {
    return fail_errno(static_cast<int>(-result), "write an overlay's last changes");
  }
  base::Le32 no;
  const auto bytes = std::as_writable_bytes(std::span(&no, 1));
  if (const std::int64_t result = whole(*file_, Call::Kind::kWrite, bytes, kInUseOffset); result < 0) {
    return fail_errno(static_cast<int>(-result), "note the end of an overlay's use");
  }
  in_use_ = false;
  return {};
}

Overlay::~Overlay() {
  const auto closed = close();
  if (!closed) base::log::error("{}", closed.error().message);
}

Geometry Overlay::geometry() const {
  const auto cluster = static_cast<std::uint32_t>(cluster_);
  return {.physical_block = kLeastCluster,  // file systems take a larger one for a mistake
          .least_io = cluster,
          .discards = !read_only_,
          .discard_block = cluster};
}

// ---- Calls ----

std::int64_t Overlay::perform(const Call& call) {
  using Kind = Call::Kind;
  if (call.kind == Kind::kSync) return read_only_ ? 0 : sync();
  const bool transfers = call.kind == Kind::kRead || call.kind == Kind::kWrite;
  const Extent extent = clip(call.offset, transfers ? total(call.pieces) : call.length);
  if (extent.length == 0) return 0;
  if (call.kind == Kind::kRead) return read(call.pieces, extent);
  if (read_only_) return -EROFS;
  if (const std::int64_t result = use(); result < 0) return result;
  return call.kind == Kind::kWrite ? write(call.pieces, extent) : clear(extent, call.kind);
}

Overlay::Extent Overlay::clip(std::uint64_t offset, std::uint64_t length) const {
  if (offset >= size_) return {.offset = size_, .length = 0};
  return {.offset = offset, .length = std::min(length, size_ - offset)};
}

// The last cluster may be cut by the end of the disk, and is whole all the same.
Overlay::Clusters Overlay::whole_clusters(const Extent& extent) const {
  return {.first = (extent.offset + cluster_ - 1) / cluster_,
          .end = extent.end() == size_ ? map_.clusters() : extent.end() / cluster_};
}

Overlay::Extent Overlay::extent_of(const Clusters& clusters) const {
  const std::uint64_t offset = clusters.first * cluster_;
  return {.offset = offset, .length = std::min(clusters.end * cluster_, size_) - offset};
}

std::int64_t Overlay::read(Pieces pieces, const Extent& extent) {
  const std::uint64_t first = extent.offset / cluster_;
  const std::uint64_t touched = (extent.end() - 1) / cluster_ - first + 1;
  const std::uint64_t run_end = (first + map_.run(first, touched)) * cluster_;
  const Front front(pieces, std::min(extent.length, run_end - extent.offset));
  switch (map_.at(first)) {
    case ClusterState::kBase:
      return base_->perform({.kind = Call::Kind::kRead, .pieces = front.pieces(), .offset = extent.offset});
    case ClusterState::kData:
      return file_->perform(
          {.kind = Call::Kind::kRead, .pieces = front.pieces(), .offset = in_file(extent.offset)});
    case ClusterState::kZero:
      for (const iovec& piece : front.pieces()) std::memset(piece.iov_base, 0, piece.iov_len);
      return static_cast<std::int64_t>(front.bytes());
  }
  return -EIO;
}

std::int64_t Overlay::write(Pieces pieces, const Extent& extent) {
  const std::uint64_t first = extent.offset / cluster_;
  if (map_.at(first) == ClusterState::kData) {
    const std::uint64_t touched = (extent.end() - 1) / cluster_ - first + 1;
    const std::uint64_t run_end = (first + map_.run(first, touched)) * cluster_;
    const Front front(pieces, std::min(extent.length, run_end - extent.offset));
    return file_->perform(
        {.kind = Call::Kind::kWrite, .pieces = front.pieces(), .offset = in_file(extent.offset)});
  }
  // 0: not even a cluster of it went there in one call.
  const std::int64_t result = write_new(pieces, extent);
  return result != 0 ? result : fill_cluster(pieces, extent);
}

// Clusters that are not in the file yet, and are written as a whole. The map has them only once they are
// complete there.
std::int64_t Overlay::write_new(Pieces pieces, const Extent& extent) {
  Clusters clusters = whole_clusters(extent);
  if (clusters.empty() || extent.offset % cluster_ != 0) return 0;
  std::uint64_t end = clusters.first;
  while (end < clusters.end && map_.at(end) != ClusterState::kData) {
    end += map_.run(end, clusters.end - end);
  }
  clusters.end = end;
  const Extent part = extent_of(clusters);
  const Front front(pieces, part.length);
  const std::int64_t moved =
      file_->perform({.kind = Call::Kind::kWrite, .pieces = front.pieces(), .offset = in_file(part.offset)});
  if (moved <= 0) return moved;
  const Extent written{.offset = part.offset, .length = static_cast<std::uint64_t>(moved)};
  const Clusters complete = whole_clusters(written);
  if (complete.empty()) return 0;
  map_.set(complete.first, complete.end - complete.first, ClusterState::kData);
  return static_cast<std::int64_t>(extent_of(complete).length);
}

// A part of one cluster: the rest of it comes from where it was.
std::int64_t Overlay::fill_cluster(Pieces pieces, const Extent& extent) {
  const std::uint64_t cluster = extent.offset / cluster_;
  const Extent all = extent_of({.first = cluster, .end = cluster + 1});
  const auto bytes = std::span(buffer_).first(all.length);
  if (const std::int64_t result = fetch_cluster(cluster, bytes); result < 0) return result;
  const Front front(pieces, std::min(extent.length, all.end() - extent.offset));
  auto to = bytes.subspan(extent.offset - all.offset);
  for (const iovec& piece : front.pieces()) {
    std::memcpy(to.data(), piece.iov_base, piece.iov_len);
    to = to.subspan(piece.iov_len);
  }
  if (const std::int64_t result = whole(*file_, Call::Kind::kWrite, bytes, in_file(all.offset)); result < 0) {
    return result;
  }
  map_.set(cluster, 1, ClusterState::kData);
  return static_cast<std::int64_t>(front.bytes());
}

// What a cluster that is not in the file reads as; 0 or an error.
std::int64_t Overlay::fetch_cluster(std::uint64_t cluster, std::span<std::byte> out) {
  if (map_.at(cluster) == ClusterState::kBase) {
    return whole(*base_, Call::Kind::kRead, out, cluster * cluster_);
  }
  std::ranges::fill(out, std::byte{0});
  return 0;
}

// kDiscard, kPunch and kZero.
std::int64_t Overlay::clear(const Extent& extent, Call::Kind kind) {
  const Clusters clusters = whole_clusters(extent);
  // Section 5.2.6.2: what is discarded may be kept, so parts of clusters are.
  const bool parts = kind != Call::Kind::kDiscard;
  if (clusters.empty()) {
    if (!parts) return 0;
    // One cluster or two, neither of them whole.
    const std::uint64_t middle = std::min(clusters.first * cluster_, extent.end());
    if (const std::int64_t result = clear_part({extent.offset, middle - extent.offset}); result < 0)
      return result;
    return clear_part({middle, extent.end() - middle});
  }
  const Extent inner = extent_of(clusters);
  if (parts) {
    if (const auto result = clear_part({extent.offset, inner.offset - extent.offset}); result < 0)
      return result;
    if (const auto result = clear_part({inner.end(), extent.end() - inner.end()}); result < 0) return result;
  }
  return clear_clusters(clusters, kind);
}

std::int64_t Overlay::clear_clusters(const Clusters& clusters, Call::Kind kind) {
  const Extent extent = extent_of(clusters);
  const bool keeps_space = kind == Call::Kind::kZero;
  const std::int64_t result = file_->perform({.kind = keeps_space ? Call::Kind::kZero : Call::Kind::kPunch,
                                              .offset = in_file(extent.offset),
                                              .length = extent.length});
  // What cannot be freed here is not read any more either. Where kZero is not to be had, zeros are written.
  if (result < 0 && (keeps_space || result != -EOPNOTSUPP)) return result;
  map_.set(clusters.first, clusters.end - clusters.first,
           keeps_space ? ClusterState::kData : ClusterState::kZero);
  return 0;
}

// Zeros in a part of one cluster, or in nothing.
std::int64_t Overlay::clear_part(const Extent& extent) {
  if (extent.length == 0) return 0;
  const std::uint64_t cluster = extent.offset / cluster_;
  if (map_.at(cluster) == ClusterState::kZero) return 0;
  if (map_.at(cluster) == ClusterState::kData) {
    const auto zeros = std::span(buffer_).first(extent.length);
    std::ranges::fill(zeros, std::byte{0});
    return whole(*file_, Call::Kind::kWrite, zeros, in_file(extent.offset));
  }
  const Extent all = extent_of({.first = cluster, .end = cluster + 1});
  const auto bytes = std::span(buffer_).first(all.length);
  if (const std::int64_t result = fetch_cluster(cluster, bytes); result < 0) return result;
  std::ranges::fill(bytes.subspan(extent.offset - all.offset, extent.length), std::byte{0});
  if (const std::int64_t result = whole(*file_, Call::Kind::kWrite, bytes, in_file(all.offset)); result < 0) {
    return result;
  }
  map_.set(cluster, 1, ClusterState::kData);
  return 0;
}

// ---- Stability ----

// Data first, then the map that refers to it: no entry is ever on the disk before its cluster.
std::int64_t Overlay::sync() {
  if (sync_failure_ < 0) return sync_failure_;
  if (const std::int64_t result = sync_file(); result < 0) return result;
  if (!map_.dirty()) return 0;
  if (const std::int64_t result = write_map(); result < 0) return result;
  if (const std::int64_t result = sync_file(); result < 0) return result;
  map_.mark_clean();
  return 0;
}

// Linux reports data that it could not write once, and then takes it for written. After that the map must
// not say any more that clusters are there.
std::int64_t Overlay::sync_file() {
  const std::int64_t result = file_->perform({.kind = Call::Kind::kSync});
  if (result < 0 && result != -EINTR && result != -EAGAIN) sync_failure_ = result;
  return result;
}

std::int64_t Overlay::write_map() {
  for (auto part = map_.next_dirty(0); part; part = map_.next_dirty(part->offset + part->bytes.size())) {
    // An iovec has no const; it is written from only.
    const std::span bytes(const_cast<std::byte*>(part->bytes.data()), part->bytes.size());
    const std::int64_t result = whole(*file_, Call::Kind::kWrite, bytes, kMapOffset + part->offset);
    if (result < 0) return result;
  }
  return 0;
}

// Before the first change. It tells people what happened; nothing depends on its being stable.
std::int64_t Overlay::use() {
  if (in_use_) return 0;
  base::Le32 yes = 1U;
  const auto bytes = std::as_writable_bytes(std::span(&yes, 1));
  const std::int64_t result = whole(*file_, Call::Kind::kWrite, bytes, kInUseOffset);
  if (result == 0) in_use_ = true;
  return result;
}

}  // namespace mayfly::virtio::block::overlay
