// DISCARD and WRITE_ZEROES, driven as a guest drives them (virtio 1.2, section 5.2.6).
#include "tests/unit/virtio/block_bench.h"

using namespace mayfly;
using namespace mayfly::test::block;
using test::ChainBuilder;
using test::FakeDisk;
using Kind = FakeDisk::Kind;

namespace {

ChainBuilder ranges(Bench& b, std::uint32_t type, const std::vector<Segment>& segments) {
  ChainBuilder chain = b.request(type);
  if (!segments.empty()) chain.readable(std::as_bytes(std::span(segments)));
  chain.writable(1);
  return chain;
}

}  // namespace

TEST_CASE("block: discard") {
  Bench b;
  const auto before = b.on_disk(0, 64);
  CHECK(b.send(ranges(b, kTypeDiscard, {{8ULL, 8U, 0U}, {32ULL, 1U, 0U}})) == kOk);
  CHECK(b.on_disk(8, 8) == std::vector<std::byte>(8 * 512));
  CHECK(b.on_disk(32, 1) == std::vector<std::byte>(512));
  CHECK(std::ranges::equal(b.on_disk(0, 8), std::span(before).first(8 * 512)));
  CHECK(std::ranges::equal(b.on_disk(33, 31), std::span(before).subspan(33 * 512)));
  CHECK(b.metrics().discards == 1);
  CHECK(b.disk.calls[Kind::kDiscard] == 2);
  CHECK(b.disk.calls[Kind::kSync] == 0);
}

TEST_CASE("block: write zeroes") {
  Bench b;
  CHECK(b.send(ranges(b, kTypeWriteZeroes, {{0ULL, 8U, kSegmentUnmap}, {63ULL, 1U, 0U}})) == kOk);
  CHECK(b.on_disk(0, 8) == std::vector<std::byte>(8 * 512));
  CHECK(b.on_disk(63, 1) == std::vector<std::byte>(512));
  CHECK(b.metrics().write_zeroes == 1);
}

TEST_CASE("block: discard in any framing") {
  Bench b({.queue_size = 256});
  for (const std::uint32_t piece : {1U, 5U, 16U, 40U}) {
    b.disk.fill(std::byte{1});
    ChainBuilder chain = ranges(b, kTypeDiscard, {{1ULL, 1U, 0U}, {3ULL, 2U, 0U}});
    chain.split(piece);
    CHECK(b.send(chain) == kOk);
    CHECK(b.send_indirect(chain) == kOk);
    CHECK(b.on_disk(1, 1) == std::vector<std::byte>(512));
    CHECK(b.on_disk(2, 1) == std::vector<std::byte>(512, std::byte{1}));
    CHECK(b.on_disk(3, 2) == std::vector<std::byte>(1024));
  }
}

TEST_CASE("block: hostile segments") {
  Bench b;
  const auto before = b.on_disk(0, 64);
  const std::uint32_t type = GENERATE(kTypeDiscard, kTypeWriteZeroes);
  const std::uint32_t most = type == kTypeDiscard ? kDiscardLimits.segments : kWriteZeroesLimits.segments;
  SECTION("past the end") {
    CHECK(b.send(ranges(b, type, {{64ULL, 1U, 0U}})) == kIoError);
    CHECK(b.send(ranges(b, type, {{63ULL, 2U, 0U}})) == kIoError);
    CHECK(b.send(ranges(b, type, {{~0ULL, 2U, 0U}})) == kIoError);
    CHECK(b.send(ranges(b, type, {{1ULL << 55U, 1U, 0U}})) == kIoError);
    CHECK(b.metrics().out_of_range == 4);
  }
  SECTION("a good one and a bad one") {
    CHECK(b.send(ranges(b, type, {{0ULL, 1U, 0U}, {64ULL, 1U, 0U}})) == kIoError);
    CHECK(b.metrics().out_of_range == 1);
  }
  SECTION("too long") {
    CHECK(b.send(ranges(b, type, {{0ULL, 0xffffffffU, 0U}})) == kIoError);
    CHECK(b.metrics().malformed_requests == 1);
  }
  SECTION("too many") {
    const std::vector<Segment> many(most + 1, {0ULL, 1U, 0U});
    CHECK(b.send(ranges(b, type, many)) == kIoError);
    CHECK(b.metrics().malformed_requests == 1);
  }
  SECTION("not whole") {
    for (const std::size_t length : {1U, 15U, 17U, 31U}) {
      CHECK(b.send(b.request(type).readable(std::string(length, '\0')).writable(1)) == kIoError);
    }
    CHECK(b.metrics().malformed_requests == 4);
  }
  SECTION("flags that are reserved") {
    CHECK(b.send(ranges(b, type, {{0ULL, 1U, 2U}})) == kUnsupported);
    CHECK(b.send(ranges(b, type, {{0ULL, 1U, 0x80000001U}})) == kUnsupported);
    CHECK(b.metrics().unsupported_requests == 2);
  }
  SECTION("none") {
    CHECK(b.send(ranges(b, type, {})) == kOk);
  }
  SECTION("in writable memory") {
    CHECK(b.send(b.request(type).writable(16).writable(1)) == kOk);  // which are none, too
    CHECK(b.answer == std::vector<std::byte>(16));
  }
  CHECK(b.on_disk(0, 64) == before);
  CHECK(b.registers.status() == 15);
}

TEST_CASE("block: discard may not unmap") {
  Bench b;
  CHECK(b.send(ranges(b, kTypeDiscard, {{0ULL, 1U, kSegmentUnmap}})) == kUnsupported);
  CHECK(b.disk.calls[Kind::kDiscard] == 0);
}

TEST_CASE("block: as many segments as there may be") {
  Bench b;
  const std::vector<Segment> many(kDiscardLimits.segments, {1ULL, 1U, 0U});
  CHECK(b.send(ranges(b, kTypeDiscard, many)) == kOk);
  CHECK(b.disk.calls[Kind::kDiscard] == static_cast<int>(kDiscardLimits.segments));
}

TEST_CASE("block: discard where it was not negotiated") {
  Bench declined({.declined = kFeatureDiscard | kFeatureWriteZeroes});
  CHECK(declined.send(ranges(declined, kTypeDiscard, {{0ULL, 1U, 0U}})) == kUnsupported);
  CHECK(declined.send(ranges(declined, kTypeWriteZeroes, {{0ULL, 1U, 0U}})) == kUnsupported);
  CHECK(declined.disk.calls.empty());
}

TEST_CASE("block: discard is not offered where it cannot be had") {
  constexpr std::uint64_t kBoth = kFeatureDiscard | kFeatureWriteZeroes;
  Bench usual;
  CHECK((usual.registers.offered() & kBoth) == kBoth);
  Bench read_only({.read_only = true});
  CHECK((read_only.registers.offered() & kBoth) == 0);
  CHECK(read_only.registers.read(test::reg::kConfig + 36) == 0);
  CHECK(read_only.send(ranges(read_only, kTypeDiscard, {{0ULL, 1U, 0U}})) == kUnsupported);
  Bench thick({.discards = false});
  CHECK((thick.registers.offered() & kBoth) == 0);
  CHECK(thick.registers.read(test::reg::kConfig + 48) == 0);
}

TEST_CASE("block: a disk that fails to discard, and one that cannot any more") {
  Bench b;
  b.disk.errors[Kind::kDiscard] = EIO;
  CHECK(b.send(ranges(b, kTypeDiscard, {{0ULL, 1U, 0U}})) == kIoError);
  CHECK(b.metrics().discard_errors == 1);
  b.disk.errors = {{Kind::kPunch, ENOSPC}};
  CHECK(b.send(ranges(b, kTypeWriteZeroes, {{0ULL, 1U, kSegmentUnmap}})) == kIoError);
  CHECK(b.metrics().discard_errors == 2);
  CHECK(b.metrics().no_space == 1);
  // As after an update to a file on another file system.
  b.disk.errors = {{Kind::kDiscard, EOPNOTSUPP}, {Kind::kPunch, EOPNOTSUPP}, {Kind::kZero, EOPNOTSUPP}};
  const auto before = b.on_disk(1, 63);
  CHECK(b.send(ranges(b, kTypeDiscard, {{0ULL, 1U, 0U}})) == kOk);
  CHECK(b.send(ranges(b, kTypeWriteZeroes, {{0ULL, 1U, kSegmentUnmap}})) == kOk);
  CHECK(b.on_disk(0, 1) == std::vector<std::byte>(512));
  CHECK(b.on_disk(1, 63) == before);
}

TEST_CASE("block: where FLUSH was declined zeroes are made stable, too") {
  Bench b({.declined = kFeatureFlush});
  CHECK(b.send(ranges(b, kTypeWriteZeroes, {{0ULL, 1U, 0U}})) == kOk);
  CHECK(b.disk.calls[Kind::kSync] == 1);
}

TEST_CASE("block: no request moves more than size_max and seg_max say, where both were negotiated") {
  // One buffer used again and again: 255 MiB in all.
  const auto send = [](Bench& b) {
    const auto at = b.guest.allocate(1U << 20U, 4096);
    ChainBuilder chain = b.request(kTypeIn, 0);
    for (int i = 0; i < 51; ++i) chain.buffer(at, 5U << 20U, true);
    chain.writable(1);
    b.driver.submit_indirect(chain.buffers());
    b.kick();
    CHECK(b.next_used());
    return b.guest.load<std::uint8_t>(chain.buffers().back().address);
  };
  Bench bounded({.queue_size = 256, .sectors = 1U << 20U});
  CHECK(send(bounded) == kIoError);
  CHECK(bounded.metrics().malformed_requests == 1);
  Bench free({.declined = kFeatureSizeMax, .queue_size = 256, .sectors = 1U << 20U});
  // It reaches the disk, which need not move that much for us.
  free.disk.errors[Kind::kRead] = EIO;
  CHECK(send(free) == kIoError);
  CHECK(free.metrics().malformed_requests == 0);
  CHECK(free.metrics().read_errors == 1);
}
