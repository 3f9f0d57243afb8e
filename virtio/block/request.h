// What a block request asks for: decoding and checking, without any effect (virtio 1.2, section 5.2.6).
#pragma once

#include <cstdint>
#include <expected>
#include <limits>
#include <optional>
#include <span>
#include <vector>

#include "base/endian.h"

namespace mayfly::virtio::block {

inline constexpr std::uint64_t kSectorSize = 512;  // the unit of capacity and sector, whatever blk_size says
inline constexpr std::size_t kIdSize = 20;         // bytes that GET_ID answers

// Section 5.2.6: the first device-readable bytes of a request.
struct RequestHeader {
  base::Le32 type;
  base::Le32 reserved;
  base::Le64 sector;
};
static_assert(sizeof(RequestHeader) == 16 && base::Wire<RequestHeader>);

// Section 5.2.6: the data of DISCARD and WRITE_ZEROES, one after the other.
struct Segment {
  base::Le64 sector;
  base::Le32 num_sectors;
  base::Le32 flags;
};
static_assert(sizeof(Segment) == 16 && base::Wire<Segment>);
inline constexpr std::uint32_t kSegmentUnmap = 1;  // the other flags are reserved

// Section 5.2.6: values of `type`.
inline constexpr std::uint32_t kTypeIn = 0;
inline constexpr std::uint32_t kTypeOut = 1;
inline constexpr std::uint32_t kTypeFlush = 4;
inline constexpr std::uint32_t kTypeGetId = 8;
inline constexpr std::uint32_t kTypeDiscard = 11;
inline constexpr std::uint32_t kTypeWriteZeroes = 13;

// Section 5.2.4: what one request of these may ask for; max_discard_… and max_write_zeroes_…. Zeros may have
// to be written, so there are fewer of them.
struct SegmentLimits {
  std::uint32_t segments;
  std::uint32_t sectors;  // of one segment
};
inline constexpr SegmentLimits kDiscardLimits = {.segments = 32, .sectors = 1U << 21U};
inline constexpr SegmentLimits kWriteZeroesLimits = {.segments = 8, .sectors = 1U << 16U};

// Section 5.2.6: the last device-writable byte of a request.
enum class RequestStatus : std::uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

enum class Operation : std::uint8_t { kRead, kWrite, kFlush, kGetId, kDiscard, kWriteZeroes };

struct Request {
  Operation operation = Operation::kRead;
  std::uint64_t offset = 0;    // into the disk, bytes
  std::uint64_t length = 0;    // of the data, bytes
  std::uint32_t segments = 0;  // in the data of kDiscard and kWriteZeroes
};

// A part of the disk, bytes.
struct Range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  bool unmap = false;
};

// Why a request is refused before anything is done.
enum class Refusal : std::uint8_t {
  kNoHeader,
  kUnsupportedType,
  kNotWholeSectors,
  kTooLong,  // longer than size_max and seg_max allow, or than what the configuration space says of segments
  kOutOfRange,
  kReadOnly,
  kNoRoom,
  kBadSegments,    // not a whole number of segments
  kReservedFlags,  // in a segment
};

// What of the device decides whether a request may be served.
struct Disk {
  std::uint64_t sectors = 0;
  bool read_only = false;
  bool flush = false;  // FLUSH was negotiated, as are the next two
  bool discard = false;
  bool write_zeroes = false;
  std::uint64_t most_bytes = std::numeric_limits<std::uint64_t>::max();  // of one read or write
};

// `header`: none when the request has fewer than 16 readable bytes. `readable`, `writable`: bytes of the
// request besides the header and the status byte. For kDiscard and kWriteZeroes, parse_segments() is next.
std::expected<Request, Refusal> parse(const std::optional<RequestHeader>& header, std::uint64_t readable,
                                      std::uint64_t writable, const Disk& disk);

// `segments`: as many as `request` said. All of them are good, or the request is refused.
std::expected<std::vector<Range>, Refusal> parse_segments(const Request& request,
                                                          std::span<const Segment> segments,
                                                          const Disk& disk);

RequestStatus status_of(Refusal refusal);

}  // namespace mayfly::virtio::block
