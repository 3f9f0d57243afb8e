#include "virtio/block/overlay/format.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>

#include "virtio/block/request.h"

namespace mayfly::virtio::block::overlay {

using base::fail;
using base::Result;
using base::Status;

namespace {

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

constexpr std::uint32_t kBillion = 1'000'000'000;

}  // namespace

std::uint64_t Description::map_size() const {
  return round_up((clusters() + kClustersPerMapByte - 1) / kClustersPerMapByte, kMapBlock);
}

std::uint64_t Description::data_offset() const {
  return round_up(kMapOffset + map_size(), cluster_size);
}

Status check(const Description& description) {
  const std::uint32_t cluster = description.cluster_size;
  if (!std::has_single_bit(cluster) || cluster < kLeastCluster || cluster > kLargestCluster) {
    return fail("the cluster size is {} bytes, not a power of two from {} to {}", cluster, kLeastCluster,
                kLargestCluster);
  }
  const std::uint64_t size = description.base.size;
  if (size == 0 || size % kSectorSize != 0) {
    return fail("the disk has {} bytes, not a multiple of {}", size, kSectorSize);
  }
  // Divided, so that no size overflows.
  if ((size - 1) / cluster >= kMostClusters) {
    return fail("the disk has {} bytes, more than the {} clusters of {} bytes that an overlay may have", size,
                kMostClusters, cluster);
  }
  if (description.base_path.size() > kMostPath) {
    return fail("the path of the base has {} bytes; at most {} fit", description.base_path.size(), kMostPath);
  }
  return {};
}

std::uint32_t default_cluster_size(std::uint64_t disk_size) {
  constexpr std::uint64_t kMany = 1U << 24;  // a map of 4 MiB
  std::uint32_t size = kLeastCluster;
  while (size < kLargestCluster && disk_size / size > kMany) size *= 2;
  return size;
}

HeaderBytes encode(const Description& description) {
  HeaderStart start;
  start.magic = kMagic;
  start.version = kVersion;
  start.cluster_size = description.cluster_size;
  start.disk_size = description.base.size;
  start.base_modified_seconds = description.base.modified_seconds;
  start.base_modified_nanoseconds = description.base.modified_nanoseconds;
  start.base_path_size = static_cast<std::uint32_t>(description.base_path.size());
  start.base_fingerprint = description.base.fingerprint;
  HeaderBytes header{};
  std::ranges::copy(std::as_bytes(std::span(description.base_path)), header.begin() + sizeof(start));
  std::memcpy(header.data(), &start, sizeof(start));
  start.checksum = checksum(header);
  std::memcpy(header.data(), &start, sizeof(start));
  return header;
}

Result<Description> decode(const HeaderBytes& header) {
  HeaderStart start;
  std::memcpy(&start, header.data(), sizeof(start));
  if (start.magic != kMagic) return fail("it does not begin with \"MAYFLYOV\", as overlays do");
  if (start.version != kVersion) {
    return fail("it has version {} of the format, and this program knows version {}",
                std::uint32_t{start.version}, kVersion);
  }
  if (const std::uint64_t sum = checksum(header); sum != start.checksum) {
    return fail("its header is damaged: the checksum is {:016x}, not {:016x}", sum,
                std::uint64_t{start.checksum});
  }
  Description description{.cluster_size = start.cluster_size,
                          .base = {.size = start.disk_size,
                                   .modified_seconds = start.base_modified_seconds,
                                   .modified_nanoseconds = start.base_modified_nanoseconds,
                                   .fingerprint = start.base_fingerprint},
                          .base_path = {}};
  const std::uint32_t path_size = start.base_path_size;
  if (path_size > kMostPath) {
    return fail("its header is damaged: the path of the base has {} bytes, and {} fit", path_size, kMostPath);
  }
  if (description.base.modified_nanoseconds >= kBillion) {
    return fail("its header is damaged: the base was modified at {} ns of a second",
                description.base.modified_nanoseconds);
  }
  description.base_path.resize(path_size);
  if (path_size > 0) std::memcpy(description.base_path.data(), header.data() + sizeof(start), path_size);
  if (description.base_path.find('\0') != std::string::npos) {
    return fail("its header is damaged: the path of the base has a NUL in it");
  }
  TRY(check(description));
  return description;
}

bool has_magic(std::span<const std::byte> start_of_file) {
  return start_of_file.size() >= kMagic.size() &&
         std::memcmp(start_of_file.data(), kMagic.data(), kMagic.size()) == 0;
}

std::uint64_t hash(std::span<const std::byte> bytes, std::uint64_t before) {
  constexpr std::uint64_t kPrime = 0x100000001b3;
  for (const std::byte byte : bytes) before = (before ^ std::to_integer<std::uint64_t>(byte)) * kPrime;
  return before;
}

std::uint64_t checksum(const HeaderBytes& header) {
  constexpr std::size_t kAt = offsetof(HeaderStart, checksum);
  const std::span all(header);
  const std::array<std::byte, sizeof(HeaderStart::checksum)> zero{};
  std::uint64_t sum = hash(all.first(kAt));
  sum = hash(zero, sum);
  return hash(all.subspan(kAt + zero.size(), kFixedSize - kAt - zero.size()), sum);
}

}  // namespace mayfly::virtio::block::overlay
