// A disk that is another one, the base, with changes of its own: what is written goes to the overlay file,
// and the base is only ever read. docs/overlay.md has the format, and why a crash leaves it whole.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "virtio/block/medium.h"
#include "virtio/block/overlay/cluster_map.h"
#include "virtio/block/overlay/format.h"

namespace mayfly::virtio::block::overlay {

// What an overlay file holds besides data.
struct Contents {
  Description description;
  ClusterMap map;
  bool in_use = false;  // nobody has closed it since it was first written to
};
// Checks header, map and length.
base::Result<Contents> read_contents(Medium& file);

// Used by one thread at a time. A kSync that succeeded made everything before it stable; of what came after
// it, a crash leaves each sector as it was or as it was written. Calls move a part at a time: up to where the
// state of the clusters changes.
class Overlay final : public Medium {
 public:
  // `contents` are the file's; the base must have the size that they say. With `read_only`, nothing is
  // written to the file. Who opens both makes sure that nobody else writes to them (open_overlay).
  static base::Result<std::unique_ptr<Overlay>> open(std::unique_ptr<Medium> file, Contents contents,
                                                     std::unique_ptr<Medium> base, bool read_only);
  // close(), with its error logged.
  ~Overlay() override;
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  base::Result<std::uint64_t> size() override { return size_; }
  [[nodiscard]] Geometry geometry() const override;
  // Besides what the two files answer: -EROFS for a change when read-only. An fdatasync that failed is never
  // tried again, because the kernel has given up on the data: kSync fails from then on.
  std::int64_t perform(const Call& call) override;

  // Makes everything stable and notes the orderly end. Nothing may be called afterwards.
  base::Status close();

  [[nodiscard]] const Description& description() const { return description_; }
  [[nodiscard]] const ClusterMap& map() const { return map_; }
  // A crash now would lose changes of the map.
  [[nodiscard]] bool unflushed() const { return map_.dirty(); }
  // It was closed in order before it was opened here.
  [[nodiscard]] bool was_clean() const { return was_clean_; }

 private:
  // A part of the disk, bytes: not empty, within the disk.
  struct Extent {
    std::uint64_t offset;
    std::uint64_t length;
    [[nodiscard]] std::uint64_t end() const { return offset + length; }
  };
  // Clusters, from `first` up to `end`.
  struct Clusters {
    std::uint64_t first;
    std::uint64_t end;
    [[nodiscard]] bool empty() const { return first >= end; }
  };
  using Pieces = std::span<const iovec>;

  Overlay(std::unique_ptr<Medium> file, Contents contents, std::unique_ptr<Medium> base, bool read_only);

  [[nodiscard]] Extent clip(std::uint64_t offset, std::uint64_t length) const;
  [[nodiscard]] Clusters whole_clusters(const Extent& extent) const;
  [[nodiscard]] Extent extent_of(const Clusters& clusters) const;
  [[nodiscard]] std::uint64_t in_file(std::uint64_t offset) const { return data_offset_ + offset; }

  std::int64_t read(Pieces pieces, const Extent& extent);
  std::int64_t write(Pieces pieces, const Extent& extent);
  std::int64_t write_new(Pieces pieces, const Extent& extent);
  std::int64_t fill_cluster(Pieces pieces, const Extent& extent);
  std::int64_t clear(const Extent& extent, Call::Kind kind);
  std::int64_t clear_clusters(const Clusters& clusters, Call::Kind kind);
  std::int64_t clear_part(const Extent& extent);
  std::int64_t sync();
  std::int64_t sync_file();
  std::int64_t write_map();
  std::int64_t use();
  std::int64_t fetch_cluster(std::uint64_t cluster, std::span<std::byte> out);

  std::unique_ptr<Medium> file_;
  std::unique_ptr<Medium> base_;
  Description description_;
  std::uint64_t size_;         // of the disk
  std::uint64_t cluster_;      // its size
  std::uint64_t data_offset_;  // of cluster 0, in the file
  ClusterMap map_;
  bool read_only_;
  bool in_use_;  // the file says so
  bool was_clean_ = !in_use_;
  std::int64_t sync_failure_ = 0;  // what kSync answers from now on
  std::vector<std::byte> buffer_;  // a cluster
};

}  // namespace mayfly::virtio::block::overlay
