// A job as system calls: transfers in pieces, repeats, errors, and what is done where a call is missing.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "tests/support/fake_disk.h"
#include "virtio/block/work.h"

using namespace mayfly;
using namespace mayfly::virtio::block;
using test::FakeDisk;
using Kind = Call::Kind;

namespace {

using Bytes = std::vector<std::byte>;

void count_up(FakeDisk& disk) {
  for (std::size_t i = 0; i < disk.bytes().size(); ++i) {
    disk.bytes()[i] = static_cast<std::byte>(i * 7 + i / 256);
  }
}

std::vector<std::span<std::byte>> cut(Bytes& bytes, std::size_t piece) {
  std::vector<std::span<std::byte>> spans;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    spans.push_back(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
  }
  return spans;
}

base::Status run(const Job& job, FakeDisk& disk) {
  Work work;
  work.begin(job);
  while (!work.finished()) work.account(disk.perform(work.call()));
  return work.outcome();
}

base::Status read(FakeDisk& disk, Spans spans, std::uint64_t offset) {
  return run({.operation = Operation::kRead, .offset = offset, .spans = spans}, disk);
}

bool same(const Bytes& bytes, const FakeDisk& disk, std::size_t offset) {
  return std::ranges::equal(bytes, disk.bytes().subspan(offset, bytes.size()));
}

bool all_zero(const FakeDisk& disk, std::size_t offset, std::size_t length) {
  return std::ranges::all_of(disk.bytes().subspan(offset, length),
                             [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

TEST_CASE("a transfer in one call") {
  FakeDisk disk(4096);
  count_up(disk);
  Bytes out(2048);
  REQUIRE(read(disk, cut(out, 512), 1024));
  CHECK(same(out, disk, 1024));
  CHECK(disk.calls[Kind::kRead] == 1);
}

TEST_CASE("short transfers are gone on with, wherever they end") {
  for (const int most : {1, 7, 511, 512, 513, 1000}) {
    FakeDisk disk(4096);
    count_up(disk);
    disk.script.assign(3000, most);
    Bytes out(3000);
    REQUIRE(read(disk, cut(out, 512), 96));
    CHECK(same(out, disk, 96));

    FakeDisk other(4096);
    other.script.assign(3000, most);
    const auto spans = cut(out, 100);
    REQUIRE(run({.operation = Operation::kWrite, .offset = 512, .spans = spans}, other));
    CHECK(same(out, other, 512));
    CHECK(all_zero(other, 0, 512));
    CHECK(all_zero(other, 3512, 584));
  }
}

TEST_CASE("a call that was interrupted, put off or cancelled is repeated") {
  FakeDisk disk(512);
  count_up(disk);
  disk.script = {-EINTR, 100, -EAGAIN, -ECANCELED, 100, -EINTR};
  Bytes out(512);
  REQUIRE(read(disk, cut(out, 512), 0));
  CHECK(same(out, disk, 0));
}

TEST_CASE("but not for ever") {
  FakeDisk disk(512);
  disk.script.assign(Work::kMostRepeats + 1, -EINTR);
  Bytes out(512);
  const auto outcome = read(disk, cut(out, 512), 0);
  REQUIRE_FALSE(outcome);
  CHECK(outcome.error().code == EINTR);
  CHECK(disk.script.empty());
}

TEST_CASE("more pieces than one call takes") {
  FakeDisk disk(3 * IOV_MAX);
  count_up(disk);
  Bytes out(disk.bytes().size());
  REQUIRE(read(disk, cut(out, 1), 0));
  CHECK(same(out, disk, 0));
  CHECK(disk.calls[Kind::kRead] == 3);
}

TEST_CASE("a transfer that fails half way, and one that stops") {
  FakeDisk disk(1024);
  Bytes out(1024);
  disk.script = {512, -EIO};
  auto failed = read(disk, cut(out, 512), 0);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == EIO);

  disk.script = {100, 0};
  failed = read(disk, cut(out, 512), 0);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == 0);
}

TEST_CASE("a transfer of nothing calls nothing") {
  FakeDisk disk(512);
  CHECK(read(disk, {}, 0));
  const std::vector<std::span<std::byte>> empty(3);
  CHECK(read(disk, empty, 0));
  CHECK(disk.calls.empty());
}

TEST_CASE("a flush, and writes that are stable when they are done") {
  FakeDisk disk(1024);
  REQUIRE(run({.operation = Operation::kFlush}, disk));
  CHECK(disk.calls[Kind::kSync] == 1);
  Bytes in(512);
  const auto spans = cut(in, 512);
  REQUIRE(run({.operation = Operation::kWrite, .spans = spans, .stable = true}, disk));
  CHECK(disk.calls[Kind::kSync] == 2);
  disk.errors[Kind::kSync] = EIO;
  const auto failed = run({.operation = Operation::kWrite, .spans = spans, .stable = true}, disk);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == EIO);
  // What could not be written is not made stable.
  disk.errors = {{Kind::kWrite, ENOSPC}};
  CHECK(run({.operation = Operation::kWrite, .spans = spans, .stable = true}, disk).error().code == ENOSPC);
  CHECK(disk.calls[Kind::kSync] == 3);
}

// ---- Ranges ----

TEST_CASE("discards, a call a range") {
  FakeDisk disk(8192);
  disk.fill(std::byte{1});
  const std::vector<Range> ranges = {{0, 512}, {1024, 0}, {4096, 4096}};
  REQUIRE(run({.operation = Operation::kDiscard, .ranges = ranges, .stable = true}, disk));
  CHECK(disk.calls == std::map<Kind, int>{{Kind::kDiscard, 2}, {Kind::kSync, 1}});
  CHECK(all_zero(disk, 0, 512));
  CHECK(disk.bytes()[512] == std::byte{1});
  CHECK(disk.bytes()[4095] == std::byte{1});
  CHECK(all_zero(disk, 4096, 4096));
}

TEST_CASE("a discard that is not to be had is let be") {
  FakeDisk disk(8192);
  disk.fill(std::byte{1});
  const std::vector<Range> ranges = {{0, 512}, {4096, 4096}};
  for (const int error : {EOPNOTSUPP, EINVAL}) {
    disk.errors[Kind::kDiscard] = error;
    CHECK(run({.operation = Operation::kDiscard, .ranges = ranges}, disk));
    CHECK(disk.bytes()[0] == std::byte{1});
  }
  disk.errors[Kind::kDiscard] = EIO;
  CHECK(run({.operation = Operation::kDiscard, .ranges = ranges}, disk).error().code == EIO);
}

TEST_CASE("zeroes keep their space unless the driver gives it up") {
  FakeDisk disk(8192);
  disk.fill(std::byte{1});
  const std::vector<Range> ranges = {{0, 512, true}, {512, 512, false}};
  REQUIRE(run({.operation = Operation::kWriteZeroes, .ranges = ranges}, disk));
  CHECK(disk.calls == std::map<Kind, int>{{Kind::kPunch, 1}, {Kind::kZero, 1}});
  CHECK(all_zero(disk, 0, 1024));
  CHECK(disk.bytes()[1024] == std::byte{1});
}

TEST_CASE("zeroes are written where no call makes them") {
  constexpr std::uint64_t kLong = (3U << 20U) + 512;
  FakeDisk disk(4U << 20U);
  disk.fill(std::byte{1});
  disk.errors = {{Kind::kPunch, EOPNOTSUPP}, {Kind::kZero, EOPNOTSUPP}};
  disk.script = {-EOPNOTSUPP, -EOPNOTSUPP, 100, -EINTR, 70000};
  const std::vector<Range> ranges = {{512, kLong, true}, {kLong + 4096, 512, false}};
  REQUIRE(run({.operation = Operation::kWriteZeroes, .ranges = ranges, .stable = true}, disk));
  CHECK(disk.bytes()[511] == std::byte{1});
  CHECK(all_zero(disk, 512, kLong));
  CHECK(disk.bytes()[512 + kLong] == std::byte{1});
  CHECK(all_zero(disk, kLong + 4096, 512));
  CHECK(disk.bytes()[kLong + 4608] == std::byte{1});
  CHECK(disk.calls[Kind::kSync] == 1);
  CHECK(disk.calls[Kind::kZero] == 2);

  disk.errors[Kind::kWrite] = ENOSPC;
  CHECK(run({.operation = Operation::kWriteZeroes, .ranges = ranges}, disk).error().code == ENOSPC);
}

TEST_CASE("one work after another") {
  FakeDisk disk(4096);
  count_up(disk);
  Work work;
  Bytes out(1024);
  const auto spans = cut(out, 100);
  const std::vector<Range> ranges = {{2048, 512}};
  const std::vector<Job> jobs = {{.operation = Operation::kRead, .offset = 0, .spans = spans, .stable = true},
                                 {.operation = Operation::kDiscard, .ranges = ranges},
                                 {.operation = Operation::kRead, .offset = 512, .spans = spans}};
  for (const Job& job : jobs) {
    work.begin(job);
    while (!work.finished()) work.account(disk.perform(work.call()));
    REQUIRE(work.outcome());
  }
  CHECK(same(out, disk, 512));
}
