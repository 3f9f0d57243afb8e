#include "virtio/block/request.h"

namespace mayfly::virtio::block {

namespace {

// A transfer of `length` bytes at `sector`.
std::expected<Request, Refusal> parse_transfer(Operation operation, std::uint64_t sector,
                                               std::uint64_t length, const Disk& disk) {
  if (length % kSectorSize != 0) return std::unexpected(Refusal::kNotWholeSectors);
  // Compared in sectors and by subtraction: the guest's number may be anything up to 2^64 - 1.
  if (sector > disk.sectors || length / kSectorSize > disk.sectors - sector) {
    return std::unexpected(Refusal::kOutOfRange);
  }
  return Request{operation, sector * kSectorSize, length};
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
    default:
      return std::unexpected(Refusal::kUnsupportedType);
  }
}

RequestStatus status_of(Refusal refusal) {
  return refusal == Refusal::kUnsupportedType ? RequestStatus::kUnsupported : RequestStatus::kIoError;
}

}  // namespace mayfly::virtio::block
