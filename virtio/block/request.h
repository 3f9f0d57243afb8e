// What a block request asks for: decoding and checking, without any effect (virtio 1.2, section 5.2.6).
#pragma once

#include <cstdint>
#include <expected>
#include <optional>

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

// Section 5.2.6: values of `type`.
inline constexpr std::uint32_t kTypeIn = 0;
inline constexpr std::uint32_t kTypeOut = 1;
inline constexpr std::uint32_t kTypeFlush = 4;
inline constexpr std::uint32_t kTypeGetId = 8;

// Section 5.2.6: the last device-writable byte of a request.
enum class RequestStatus : std::uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

enum class Operation : std::uint8_t { kRead, kWrite, kFlush, kGetId };

struct Request {
  Operation operation = Operation::kRead;
  std::uint64_t offset = 0;  // into the disk, bytes
  std::uint64_t length = 0;  // of the data, bytes
};

// Why a request is refused before anything is done.
enum class Refusal : std::uint8_t {
  kNoHeader,
  kUnsupportedType,
  kNotWholeSectors,
  kOutOfRange,
  kReadOnly,
  kNoRoom
};

// What of the device decides whether a request may be served.
struct Disk {
  std::uint64_t sectors = 0;
  bool read_only = false;
  bool flush = false;  // FLUSH was negotiated
};

// `header`: none when the request has fewer than 16 readable bytes. `readable`, `writable`: bytes of the
// request besides the header and the status byte.
std::expected<Request, Refusal> parse(const std::optional<RequestHeader>& header, std::uint64_t readable,
                                      std::uint64_t writable, const Disk& disk);

RequestStatus status_of(Refusal refusal);

}  // namespace mayfly::virtio::block
