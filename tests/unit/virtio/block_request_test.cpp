// Block requests: what is accepted and why not, without a device.
#include <catch2/catch.hpp>

#include "virtio/block/request.h"

using namespace mayfly::virtio::block;

namespace {

constexpr Disk kDisk = {.sectors = 100, .read_only = false, .flush = true};

RequestHeader header(std::uint32_t type, std::uint64_t sector = 0) {
  return {.type = type, .reserved = 0U, .sector = sector};
}

void require_refused(const RequestHeader& given, std::uint64_t readable, std::uint64_t writable, Refusal why,
                     const Disk& disk = kDisk) {
  const auto request = parse(given, readable, writable, disk);
  REQUIRE_FALSE(request);
  CHECK(request.error() == why);
}

}  // namespace

TEST_CASE("a read is as long as its writable bytes") {
  const auto request = parse(header(kTypeIn, 3), 0, 1024, kDisk);
  REQUIRE(request);
  CHECK(request->operation == Operation::kRead);
  CHECK(request->offset == 1536);
  CHECK(request->length == 1024);
}

TEST_CASE("a write is as long as its readable bytes") {
  const auto request = parse(header(kTypeOut, 99), 512, 0, kDisk);
  REQUIRE(request);
  CHECK(request->operation == Operation::kWrite);
  CHECK(request->offset == 99 * 512);
  CHECK(request->length == 512);
}

TEST_CASE("the whole disk, and nothing at its end, are in range") {
  CHECK(parse(header(kTypeIn, 0), 0, 100 * 512, kDisk));
  CHECK(parse(header(kTypeIn, 100), 0, 0, kDisk));
}

TEST_CASE("a request without a whole header") {
  const auto request = parse(std::nullopt, 0, 512, kDisk);
  REQUIRE_FALSE(request);
  CHECK(request.error() == Refusal::kNoHeader);
}

TEST_CASE("sectors out of range, however large") {
  require_refused(header(kTypeIn, 100), 0, 512, Refusal::kOutOfRange);
  require_refused(header(kTypeIn, 101), 0, 0, Refusal::kOutOfRange);
  require_refused(header(kTypeIn, 99), 0, 1024, Refusal::kOutOfRange);
  require_refused(header(kTypeOut, ~0ULL), 512, 0, Refusal::kOutOfRange);
  // 2^55 sectors are 2^64 bytes: the multiplication would come out as zero.
  require_refused(header(kTypeIn, 1ULL << 55U), 0, 512, Refusal::kOutOfRange);
  require_refused(header(kTypeOut, (1ULL << 55U) + 1), 512, 0, Refusal::kOutOfRange);
  require_refused(header(kTypeIn, 0), 0, 0xffff'fe00U, Refusal::kOutOfRange);
}

TEST_CASE("lengths that are not whole sectors") {
  for (const std::uint64_t length : {1U, 511U, 513U, 1023U}) {
    require_refused(header(kTypeIn), 0, length, Refusal::kNotWholeSectors);
    require_refused(header(kTypeOut), length, 0, Refusal::kNotWholeSectors);
  }
}

TEST_CASE("a read-only disk refuses writes only") {
  constexpr Disk kReadOnly = {.sectors = 100, .read_only = true, .flush = true};
  require_refused(header(kTypeOut), 512, 0, Refusal::kReadOnly, kReadOnly);
  CHECK(parse(header(kTypeIn), 0, 512, kReadOnly));
  CHECK(parse(header(kTypeFlush), 0, 0, kReadOnly));
}

TEST_CASE("flush is there when it was negotiated") {
  CHECK(parse(header(kTypeFlush, 12345), 0, 0, kDisk));
  constexpr Disk kNoFlush = {.sectors = 100, .read_only = false, .flush = false};
  require_refused(header(kTypeFlush), 0, 0, Refusal::kUnsupportedType, kNoFlush);
}

TEST_CASE("get-id needs room for twenty bytes") {
  CHECK(parse(header(kTypeGetId), 0, 20, kDisk));
  CHECK(parse(header(kTypeGetId), 0, 512, kDisk));
  require_refused(header(kTypeGetId), 0, 19, Refusal::kNoRoom);
}

TEST_CASE("unknown types are unsupported, everything else refused is an I/O error") {
  for (const std::uint32_t type : {2U, 3U, 5U, 7U, 9U, 11U, 13U, 14U, 0x80000000U, 0xffffffffU}) {
    require_refused(header(type), 512, 512, Refusal::kUnsupportedType);
  }
  CHECK(status_of(Refusal::kUnsupportedType) == RequestStatus::kUnsupported);
  for (const Refusal refusal : {Refusal::kNoHeader, Refusal::kNotWholeSectors, Refusal::kOutOfRange,
                                Refusal::kReadOnly, Refusal::kNoRoom}) {
    CHECK(status_of(refusal) == RequestStatus::kIoError);
  }
}
