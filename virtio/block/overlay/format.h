// What an overlay file begins with (docs/overlay.md): encoding, decoding and every check, without any effect.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "base/endian.h"
#include "base/result.h"

namespace mayfly::virtio::block::overlay {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::size_t kHeaderSize = 4096;
// Of the header, what is written once and covered by the checksum. The next sector changes.
inline constexpr std::size_t kFixedSize = 3584;
inline constexpr std::uint64_t kInUseOffset = kFixedSize;  // a Le32: 0, or 1 from first use to an orderly end
inline constexpr std::uint64_t kMapOffset = kHeaderSize;
inline constexpr std::uint64_t kMapBlock = 4096;          // the map is a multiple of it, and written by it
inline constexpr std::uint64_t kClustersPerMapByte = 4;   // two bits each
inline constexpr std::uint64_t kMostClusters = 1U << 28;  // a map of 64 MiB
inline constexpr std::uint32_t kLeastCluster = 4096;
inline constexpr std::uint32_t kLargestCluster = 65536;

struct HeaderStart {
  std::array<char, 8> magic{};
  base::Le32 version;
  base::Le32 cluster_size;  // bytes; a power of two
  base::Le64 disk_size;     // bytes, as is the base's
  base::Le64 base_modified_seconds;
  base::Le32 base_modified_nanoseconds;
  base::Le32 base_path_size;  // bytes that follow this structure
  base::Le64 base_fingerprint;
  base::Le64 checksum;  // FNV-1a of kFixedSize bytes, these eight taken as zero
};
static_assert(sizeof(HeaderStart) == 56 && base::Wire<HeaderStart>);
inline constexpr std::array<char, 8> kMagic = {'M', 'A', 'Y', 'F', 'L', 'Y', 'O', 'V'};
inline constexpr std::size_t kMostPath = kFixedSize - sizeof(HeaderStart);

// What tells one base from another, and from what has become of it.
struct BaseIdentity {
  std::uint64_t size = 0;  // bytes
  std::uint64_t modified_seconds = 0;
  std::uint32_t modified_nanoseconds = 0;
  std::uint64_t fingerprint = 0;  // of samples of its content
  bool operator==(const BaseIdentity&) const = default;
};

struct Description {
  std::uint32_t cluster_size = kLeastCluster;
  BaseIdentity base;
  std::string base_path = {};  // where the base was; for tools

  [[nodiscard]] std::uint64_t clusters() const { return (base.size + cluster_size - 1) / cluster_size; }
  [[nodiscard]] std::uint64_t map_size() const;
  // Where cluster 0 is, a multiple of the cluster size; cluster n follows it by n clusters.
  [[nodiscard]] std::uint64_t data_offset() const;
  [[nodiscard]] std::uint64_t file_size() const { return data_offset() + base.size; }
};

// Refuses what no overlay can be made for, by name and value.
base::Status check(const Description& description);
// Small clusters cost nothing to write to, but a large disk has too many of them.
std::uint32_t default_cluster_size(std::uint64_t disk_size);

using HeaderBytes = std::array<std::byte, kHeaderSize>;
HeaderBytes encode(const Description& description);
base::Result<Description> decode(const HeaderBytes& header);
bool has_magic(std::span<const std::byte> start_of_file);

// FNV-1a, 64 bits.
inline constexpr std::uint64_t kHashStart = 0xcbf29ce484222325;
std::uint64_t hash(std::span<const std::byte> bytes, std::uint64_t before = kHashStart);
// As HeaderStart::checksum has it.
std::uint64_t checksum(const HeaderBytes& header);

}  // namespace mayfly::virtio::block::overlay
