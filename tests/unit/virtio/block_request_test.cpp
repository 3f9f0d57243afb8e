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
  for (const std::uint32_t type : {2U, 3U, 5U, 7U, 9U, 10U, 12U, 14U, 0x80000000U, 0xffffffffU}) {
    require_refused(header(type), 512, 512, Refusal::kUnsupportedType);
  }
  for (const Refusal refusal : {Refusal::kUnsupportedType, Refusal::kReservedFlags}) {
    CHECK(status_of(refusal) == RequestStatus::kUnsupported);
  }
  for (const Refusal refusal :
       {Refusal::kNoHeader, Refusal::kNotWholeSectors, Refusal::kOutOfRange, Refusal::kReadOnly,
        Refusal::kNoRoom, Refusal::kTooLong, Refusal::kBadSegments}) {
    CHECK(status_of(refusal) == RequestStatus::kIoError);
  }
}

// ---- DISCARD and WRITE_ZEROES ----

namespace {

constexpr Disk kThin = {.sectors = 100, .discard = true, .write_zeroes = true};

void require_bad_segments(std::uint32_t type, const std::vector<Segment>& segments, Refusal why,
                          const Disk& disk = kThin) {
  const auto request = parse(header(type), segments.size() * sizeof(Segment), 0, disk);
  REQUIRE(request);
  const auto ranges = parse_segments(*request, segments, disk);
  REQUIRE_FALSE(ranges);
  CHECK(ranges.error() == why);
}

}  // namespace

TEST_CASE("discard and write-zeroes are there when they were negotiated") {
  require_refused(header(kTypeDiscard), 16, 0, Refusal::kUnsupportedType);
  require_refused(header(kTypeWriteZeroes), 16, 0, Refusal::kUnsupportedType);
  constexpr Disk kDiscardOnly = {.sectors = 100, .discard = true};
  CHECK(parse(header(kTypeDiscard), 16, 0, kDiscardOnly));
  require_refused(header(kTypeWriteZeroes), 16, 0, Refusal::kUnsupportedType, kDiscardOnly);
  constexpr Disk kReadOnly = {.sectors = 100, .read_only = true, .discard = true, .write_zeroes = true};
  require_refused(header(kTypeDiscard), 16, 0, Refusal::kReadOnly, kReadOnly);
}

TEST_CASE("segments come whole, and no more of them than was said") {
  for (const std::uint64_t length : {1U, 15U, 17U, 24U, 511U}) {
    require_refused(header(kTypeDiscard), length, 0, Refusal::kBadSegments, kThin);
    require_refused(header(kTypeWriteZeroes), length, 0, Refusal::kBadSegments, kThin);
  }
  const auto most = parse(header(kTypeDiscard), 16U * kDiscardLimits.segments, 0, kThin);
  REQUIRE(most);
  CHECK(most->segments == kDiscardLimits.segments);
  require_refused(header(kTypeDiscard), 16U * (kDiscardLimits.segments + 1), 0, Refusal::kTooLong, kThin);
  require_refused(header(kTypeWriteZeroes), 16U * (kWriteZeroesLimits.segments + 1), 0, Refusal::kTooLong,
                  kThin);
  require_refused(header(kTypeDiscard), 0xffff'fff0U, 0, Refusal::kTooLong, kThin);
  // None at all is nothing to do.
  CHECK(parse(header(kTypeDiscard), 0, 0, kThin)->segments == 0);
}

TEST_CASE("segments become ranges") {
  const std::vector<Segment> segments = {{0ULL, 100U, 0U}, {100ULL, 0U, 0U}, {3ULL, 4U, kSegmentUnmap}};
  const auto request = parse(header(kTypeWriteZeroes), 48, 0, kThin);
  REQUIRE(request);
  const auto ranges = parse_segments(*request, segments, kThin);
  REQUIRE(ranges);
  REQUIRE(ranges->size() == 3);
  CHECK((*ranges)[0].length == 51200);
  CHECK_FALSE((*ranges)[0].unmap);
  CHECK((*ranges)[1].length == 0);
  CHECK((*ranges)[2].offset == 1536);
  CHECK((*ranges)[2].length == 2048);
  CHECK((*ranges)[2].unmap);
}

TEST_CASE("segments out of range, however large") {
  for (const std::uint32_t type : {kTypeDiscard, kTypeWriteZeroes}) {
    require_bad_segments(type, {{100ULL, 1U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{99ULL, 2U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{101ULL, 0U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{~0ULL, 1U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{~0ULL - 1, 3U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{1ULL << 55U, 1U, 0U}}, Refusal::kOutOfRange);
    // One bad segment spoils all.
    require_bad_segments(type, {{0ULL, 1U, 0U}, {100ULL, 1U, 0U}}, Refusal::kOutOfRange);
    require_bad_segments(type, {{0ULL, 0xffffffffU, 0U}}, Refusal::kTooLong);
  }
  constexpr Disk kLarge = {.sectors = 1ULL << 40U, .discard = true, .write_zeroes = true};
  require_bad_segments(kTypeDiscard, {{0ULL, kDiscardLimits.sectors + 1, 0U}}, Refusal::kTooLong, kLarge);
  require_bad_segments(kTypeWriteZeroes, {{0ULL, kWriteZeroesLimits.sectors + 1, 0U}}, Refusal::kTooLong,
                       kLarge);
}

TEST_CASE("segments with flags that are reserved") {
  require_bad_segments(kTypeDiscard, {{0ULL, 1U, kSegmentUnmap}}, Refusal::kReservedFlags);
  for (const std::uint32_t flags : {2U, 3U, 0x80000000U, 0xffffffffU}) {
    require_bad_segments(kTypeDiscard, {{0ULL, 1U, flags}}, Refusal::kReservedFlags);
    require_bad_segments(kTypeWriteZeroes, {{0ULL, 1U, flags}}, Refusal::kReservedFlags);
  }
  // Wherever it is, and whatever else is wrong.
  require_bad_segments(kTypeDiscard, {{500ULL, 1U, 0U}, {0ULL, 1U, 2U}}, Refusal::kReservedFlags);
}

TEST_CASE("a transfer longer than was offered") {
  constexpr Disk kBounded = {.sectors = 1ULL << 40U, .most_bytes = 1U << 20U};
  CHECK(parse(header(kTypeIn), 0, 1U << 20U, kBounded));
  require_refused(header(kTypeIn), 0, (1U << 20U) + 512, Refusal::kTooLong, kBounded);
  require_refused(header(kTypeOut), (1U << 20U) + 512, 0, Refusal::kTooLong, kBounded);
}
