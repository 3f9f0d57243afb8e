#include "virtio/block/request.h"

namespace mayfly::virtio::block {

namespace {

// Compared in sectors and by subtraction: the guest's number may be anything up to 2^64 - 1.
bool contains(const Disk& disk, std::uint64_t sector, std::uint64_t sectors) {
  return sector <= disk.sectors && sectors <= disk.sectors - sector;
}

// A transfer of `length` bytes at `sector`.
std::expected<Request, Refusal> parse_transfer(Operation operation, std::uint64_t sector,
                                               std::uint64_t length, const Disk& disk) {
  if (length % kSectorSize != 0) return std::unexpected(Refusal::kNotWholeSectors);
  if (!contains(disk, sector, length / kSectorSize)) return std::unexpected(Refusal::kOutOfRange);
  if (length > disk.most_bytes) return std::unexpected(Refusal::kTooLong);
  return Request{operation, sector * kSectorSize, length};
}

const SegmentLimits& limits_of(Operation operation) {
  return operation == Operation::kDiscard ? kDiscardLimits : kWriteZeroesLimits;
}

std::expected<Request, Refusal> parse_ranges(Operation operation, std::uint64_t length, const Disk& disk) {
  const bool negotiated = operation == Operation::kDiscard ? disk.discard : disk.write_zeroes;
  if (!negotiated) return std::unexpected(Refusal::kUnsupportedType);
  if (disk.read_only) return std::unexpected(Refusal::kReadOnly);
  // Section 5.2.6.1: a multiple of the size of a segment.
  if (length % sizeof(Segment) != 0) return std::unexpected(Refusal::kBadSegments);
  const std::uint64_t count = length / sizeof(Segment);
  if (count > limits_of(operation).segments) return std::unexpected(Refusal::kTooLong);
  return Request{operation, 0, length, static_cast<std::uint32_t>(count)};
}

}  // namespace

std::expected<Request, Refusal> parse(const std::optional<RequestHeader>& header, std::uint64_t readable,
                                      std::uint64_t writable, const Disk& disk) {
  if (!header) return std::unexpected(Refusal::kNoHeader);
  switch (header->type) {
    case kTypeIn:
      return parse_transfer(Operation::kRead, header->sector, writable, disk);
    case kTypeOut:
      // Section 5.2.6.2: a read-only device fails writes and touches no data.
      if (disk.read_only) return std::unexpected(Refusal::kReadOnly);
      return parse_transfer(Operation::kWrite, header->sector, readable, disk);
    case kTypeFlush:
      if (!disk.flush) return std::unexpected(Refusal::kUnsupportedType);
      return Request{Operation::kFlush, 0, 0};
    case kTypeGetId:
      if (writable < kIdSize) return std::unexpected(Refusal::kNoRoom);
      return Request{Operation::kGetId, 0, kIdSize};
    case kTypeDiscard:
      return parse_ranges(Operation::kDiscard, readable, disk);
    case kTypeWriteZeroes:
      return parse_ranges(Operation::kWriteZeroes, readable, disk);
    default:
      return std::unexpected(Refusal::kUnsupportedType);
  }
}

std::expected<std::vector<Range>, Refusal> parse_segments(const Request& request,
                                                          std::span<const Segment> segments,
                                                          const Disk& disk) {
  // Section 5.2.6.2: UNSUPP for any unknown flag, and for `unmap` where the request is a discard.
  const std::uint32_t known = request.operation == Operation::kDiscard ? 0 : kSegmentUnmap;
  for (const Segment& segment : segments) {
    if ((segment.flags & ~known) != 0) return std::unexpected(Refusal::kReservedFlags);
  }
  std::vector<Range> ranges;
  ranges.reserve(segments.size());
  for (const Segment& segment : segments) {
    const std::uint64_t sector = segment.sector;
    const std::uint32_t sectors = segment.num_sectors;
    if (sectors > limits_of(request.operation).sectors) return std::unexpected(Refusal::kTooLong);
    if (!contains(disk, sector, sectors)) return std::unexpected(Refusal::kOutOfRange);
    ranges.push_back({.offset = sector * kSectorSize,
                      .length = sectors * kSectorSize,
                      .unmap = (segment.flags & kSegmentUnmap) != 0});
  }
  return ranges;
}

RequestStatus status_of(Refusal refusal) {
  switch (refusal) {
    case Refusal::kUnsupportedType:
    case Refusal::kReservedFlags:
      return RequestStatus::kUnsupported;
    default:
      return RequestStatus::kIoError;
  }
}

}  // namespace mayfly::virtio::block
