// Overlays: what is read, what is written where, and what goes wrong.
#include <catch2/catch.hpp>

#include <cerrno>

#include "base/log.h"
#include "tests/unit/virtio/overlay_bench.h"

using namespace mayfly;
using namespace mayfly::test::overlay;
using State = ClusterState;

namespace {

Bytes copy(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("overlay: what was not written is the base's") {
  Bench b;
  CHECK(b.as_model());
  CHECK(read(*b.overlay, 512, 3 * 4096) == copy(b.below.bytes().subspan(512, 3 * 4096)));
  CHECK(b.below.calls[Kind::kWrite] == 0);
  CHECK(b.overlay->size().value() == 10 * 4096);
  CHECK_FALSE(b.overlay->unflushed());
}

TEST_CASE("overlay: a whole cluster is written without a look at the base") {
  Bench b;
  b.below.calls.clear();
  b.write(4096, filled(2 * 4096, 'w'), 4096);
  CHECK(b.below.calls.empty());
  CHECK(b.state(0) == State::kBase);
  CHECK(b.state(1) == State::kData);
  CHECK(b.state(2) == State::kData);
  CHECK(b.state(3) == State::kBase);
  CHECK(copy(b.data().subspan(4096, 8192)) == filled(8192, 'w'));
  CHECK(b.as_model());
  CHECK(b.overlay->unflushed());
}

TEST_CASE("overlay: the base is never written") {
  Bench b;
  const Bytes before = copy(b.below.bytes());
  b.write(0, filled(10 * 4096, 'w'));
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 0, 8 * 4096, false));
  REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, 512, 20000, true));
  REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, 512, 20000, false));
  REQUIRE(flush(*b.overlay));
  b.reopen();
  CHECK(copy(b.below.bytes()) == before);
  using Counts = std::map<Kind, int>;
  for (const auto& [kind, count] : Counts(b.below.calls)) CHECK(kind == Kind::kRead);
}

TEST_CASE("overlay: a part of a cluster, at every alignment and length") {
  for (const std::uint32_t cluster : {4096U, 8192U}) {
    for (std::uint64_t begin = 0; begin < 2 * cluster; begin += 512) {
      for (std::uint64_t end = begin + 512; end <= 3ULL * cluster; end += 512) {
        Bench b(4ULL * cluster, cluster);
        b.write(begin, filled(end - begin, 'w'));
        REQUIRE(b.as_model());
        b.reopen();
        REQUIRE(b.as_model());
      }
    }
  }
}

TEST_CASE("overlay: a second write to a cluster goes to its place, and leaves the rest") {
  Bench b;
  b.write(4096 + 512, filled(512, 'a'));
  b.below.calls.clear();
  b.write(4096 + 1024, filled(512, 'b'));
  b.write(4096, filled(4096, 'c'));
  b.write(4096 + 2048, filled(1024, 'd'));
  CHECK(b.below.calls.empty());
  CHECK(b.as_model());
}

TEST_CASE("overlay: any cut of the buffers") {
  for (const std::size_t piece : {1U, 7U, 100U, 513U, 5000U}) {
    Bench b;
    b.write(512, filled(5 * 4096 + 512, 'p'), piece);
    CHECK(read(*b.overlay, 0, b.model.size(), piece) == b.model);
  }
}

TEST_CASE("overlay: a base that ends within a cluster") {
  for (const std::uint64_t size : {512ULL, 4096ULL + 512, 3 * 4096ULL - 512}) {
    Bench b(size);
    CHECK(b.as_model());
    b.write(size - 512, filled(512, 'e'));
    CHECK(b.as_model());
    b.write(size / 4096 * 4096, filled(size % 4096, 'f'), 4096);
    CHECK(b.state(b.overlay->map().clusters() - 1) == State::kData);
    CHECK(b.as_model());
    b.reopen();
    CHECK(b.as_model());
    // To the end of the disk is all of its last cluster.
    REQUIRE(clear(*b.overlay, Operation::kDiscard, 0, size, false));
    b.model = filled(size, '\0');
    CHECK(b.overlay->map().count().zero == b.overlay->map().clusters());
    CHECK(b.as_model());
    CHECK(b.file.bytes().size() == b.description.file_size());
  }
}

TEST_CASE("overlay: the last cluster by itself is written whole without a look at the base") {
  Bench b(4096 + 1024);
  b.below.calls.clear();
  b.write(4096, filled(1024, 'w'));
  CHECK(b.below.calls.empty());
  CHECK(b.as_model());
}

TEST_CASE("overlay: nothing is to be had past the end") {
  Bench b(4096 + 512);
  Bytes bytes = filled(4096, 'x');
  const iovec piece{.iov_base = bytes.data(), .iov_len = bytes.size()};
  const auto perform = [&](Kind kind, std::uint64_t offset) {
    return b.overlay->perform({.kind = kind, .pieces = std::span(&piece, 1), .offset = offset});
  };
  for (const Kind kind : {Kind::kRead, Kind::kWrite}) {
    CHECK(perform(kind, 4096 + 512) == 0);
    CHECK(perform(kind, ~0ULL) == 0);
    CHECK(perform(kind, 4096) == 512);
  }
  CHECK(b.overlay->perform({.kind = Kind::kPunch, .offset = 4096, .length = ~0ULL}) == 0);
  CHECK(b.overlay->size().value() == 4096 + 512);
  CHECK(b.file.bytes().size() == b.description.file_size());
}

// ---- Discards and zeroes ----

TEST_CASE("overlay: discarded clusters read as zero and take no space") {
  Bench b;
  b.write(0, filled(4 * 4096, 'w'));
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 4096, 5 * 4096, false));
  std::ranges::fill(std::span(b.model).subspan(4096, 5 * 4096), std::byte{0});
  CHECK(b.as_model());
  CHECK(b.file.calls[Kind::kPunch] == 1);
  CHECK(copy(b.data().subspan(4096, 3 * 4096)) == filled(3 * 4096, '\0'));
  CHECK(b.state(0) == State::kData);
  CHECK(b.state(5) == State::kZero);
  CHECK(b.state(6) == State::kBase);
  b.reopen();
  CHECK(b.as_model());
}

TEST_CASE("overlay: parts of clusters are not discarded") {
  Bench b;
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 512, 4096, false));
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 4096, 512, false));
  CHECK(b.as_model());
  CHECK(b.overlay->map().count().base == 10);
}

TEST_CASE("overlay: zeroes at every alignment and length, over each kind of cluster") {
  for (const bool unmap : {false, true}) {
    for (std::uint64_t begin = 0; begin < 2 * 4096; begin += 512) {
      for (std::uint64_t end = begin + 512; end <= 4 * 4096; end += 512) {
        Bench b;
        b.write(4096, filled(4096, 'w'));
        REQUIRE(clear(*b.overlay, Operation::kDiscard, 2 * 4096, 4096, false));
        std::ranges::fill(std::span(b.model).subspan(2 * 4096, 4096), std::byte{0});
        REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, begin, end - begin, unmap));
        std::ranges::fill(std::span(b.model).subspan(begin, end - begin), std::byte{0});
        REQUIRE(b.as_model());
        b.reopen();
        REQUIRE(b.as_model());
      }
    }
  }
}

TEST_CASE("overlay: zeroes that keep their space have it") {
  Bench b;
  REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, 0, 2 * 4096, false));
  CHECK(b.state(0) == State::kData);
  CHECK(b.file.calls[Kind::kZero] == 1);
  // Where there is no such call they are written.
  b.file.errors[Kind::kZero] = EOPNOTSUPP;
  REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, 4 * 4096, 4096, false));
  CHECK(b.state(4) == State::kData);
  for (const std::size_t cluster : {0U, 1U, 4U}) {
    std::ranges::fill(std::span(b.model).subspan(cluster * 4096, 4096), std::byte{0});
  }
  CHECK(b.as_model());
}

TEST_CASE("overlay: a file system that cannot punch holes frees nothing, and zeros are read all the same") {
  Bench b;
  b.write(0, filled(4 * 4096, 'w'));
  b.file.errors[Kind::kPunch] = EOPNOTSUPP;
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 0, 2 * 4096, false));
  std::ranges::fill(std::span(b.model).first(2 * 4096), std::byte{0});
  CHECK(b.as_model());
  // What is left there does not come back.
  b.write(512, filled(512, 'n'));
  CHECK(b.as_model());
  b.file.errors[Kind::kPunch] = EIO;
  CHECK(clear(*b.overlay, Operation::kDiscard, 2 * 4096, 4096, false).error().code == EIO);
  CHECK(b.as_model());
}

// ---- Opening again ----

TEST_CASE("overlay: what was written is there after it was closed") {
  Bench b;
  b.write(512, filled(6000, 'w'));
  REQUIRE(clear(*b.overlay, Operation::kDiscard, 5 * 4096, 2 * 4096, false));
  std::ranges::fill(std::span(b.model).subspan(5 * 4096, 2 * 4096), std::byte{0});
  b.reopen();
  CHECK(b.overlay->was_clean());
  CHECK_FALSE(b.overlay->unflushed());
  CHECK(b.as_model());
}

TEST_CASE("overlay: the map is not written before a flush, and only where it changed") {
  // Three blocks of the map.
  Bench b(3ULL * 16384 * 4096);
  b.write(0, filled(512, 'a'));
  b.write(2ULL * 16384 * 4096, filled(512, 'b'));
  const auto map = b.file.bytes().subspan(kMapOffset, b.description.map_size());
  CHECK(std::ranges::all_of(map, [](std::byte byte) { return byte == std::byte{0}; }));
  b.file.calls.clear();
  REQUIRE(flush(*b.overlay));
  CHECK(b.file.calls == std::map<Kind, int>{{Kind::kSync, 2}, {Kind::kWrite, 2}});
  CHECK(map[0] == std::byte{1});
  CHECK(map[2 * kMapBlock] == std::byte{1});
  // Nothing new in the map: the data alone.
  b.write(0, filled(4096, 'c'));
  b.file.calls.clear();
  REQUIRE(flush(*b.overlay));
  CHECK(b.file.calls == std::map<Kind, int>{{Kind::kSync, 1}});
}

TEST_CASE("overlay: only one that was written to and not closed is unclean") {
  Bench b;
  b.reopen();
  CHECK(b.file.calls[Kind::kWrite] == 0);
  b.write(0, filled(512, 'w'));
  CHECK(b.file.bytes()[kInUseOffset] == std::byte{1});
  REQUIRE(flush(*b.overlay));
  CHECK_FALSE(b.open_files(true).value()->was_clean());
  REQUIRE(b.overlay->close());
  CHECK(b.open_files(true).value()->was_clean());
}

TEST_CASE("overlay: one that is opened to be read refuses changes") {
  Bench b;
  b.write(512, filled(512, 'w'));
  b.reopen(true);
  CHECK(b.as_model());
  CHECK_FALSE(b.overlay->geometry().discards);
  b.file.calls.clear();
  CHECK(write(*b.overlay, 0, filled(512, 'x')).error().code == EROFS);
  CHECK(clear(*b.overlay, Operation::kDiscard, 0, 4096, false).error().code == EROFS);
  CHECK(flush(*b.overlay));
  b.overlay.reset();
  CHECK(b.file.calls[Kind::kWrite] + b.file.calls[Kind::kSync] == 0);
}

TEST_CASE("overlay: what it says of itself") {
  const Geometry geometry = Bench(40 * 65536, 65536).overlay->geometry();
  CHECK(geometry.physical_block == 4096);
  CHECK(geometry.least_io == 65536);
  CHECK(geometry.discard_block == 65536);
  CHECK(geometry.discards);
}

// ---- Failures ----

TEST_CASE("overlay: a full disk fails the write, changes nothing, and is good again with space") {
  Bench b;
  b.write(0, filled(4096, 'w'));
  b.file.errors[Kind::kWrite] = ENOSPC;
  CHECK(write(*b.overlay, 4096, filled(8192, 'x')).error().code == ENOSPC);
  CHECK(write(*b.overlay, 4096 + 512, filled(512, 'x')).error().code == ENOSPC);
  CHECK(clear(*b.overlay, Operation::kWriteZeroes, 512, 512, true).error().code == ENOSPC);
  CHECK(b.as_model());
  // So does a map that cannot be written; what it says stays to be written.
  CHECK(flush(*b.overlay).error().code == ENOSPC);
  CHECK(b.overlay->unflushed());
  b.file.errors.clear();
  b.write(4096 + 512, filled(512, 'y'));
  REQUIRE(flush(*b.overlay));
  b.reopen();
  CHECK(b.as_model());
}

TEST_CASE("overlay: a write of new clusters that stops half way counts whole clusters only") {
  Bench b;
  // The mark of first use, then the data.
  b.file.script = {4, 2 * 4096 + 100, -ENOSPC};
  CHECK(write(*b.overlay, 0, filled(4 * 4096, 'w'), 4 * 4096).error().code == ENOSPC);
  CHECK(b.state(0) == State::kData);
  CHECK(b.state(1) == State::kData);
  CHECK(b.state(2) == State::kBase);
  std::ranges::fill(std::span(b.model).first(2 * 4096), std::byte{'w'});
  CHECK(b.as_model());
}

TEST_CASE("overlay: short transfers and interruptions, everywhere") {
  for (const int most : {1, 100, 511, 4095, 4097}) {
    Bench b;
    b.file.script.assign(100000, most);
    b.below.script.assign(100000, most);
    for (std::size_t i = 3; i < 30; i += 5) b.file.script[i] = b.below.script[i] = -EINTR;
    b.write(512, filled(3 * 4096, 'w'), 4096);
    REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, 5 * 4096 + 512, 512, true));
    std::ranges::fill(std::span(b.model).subspan(5 * 4096 + 512, 512), std::byte{0});
    CHECK(b.as_model());
    REQUIRE(flush(*b.overlay));
    b.reopen();
    CHECK(b.as_model());
  }
}

TEST_CASE("overlay: a base that fails, or ends early, fails the request") {
  Bench b;
  b.below.errors[Kind::kRead] = EIO;
  Bytes out = filled(4096, '?');
  const auto spans = cut(out, 4096);
  const Job job{.operation = Operation::kRead, .offset = 0, .spans = spans};
  CHECK(run(job, *b.overlay).error().code == EIO);
  CHECK(write(*b.overlay, 512, filled(512, 'x')).error().code == EIO);
  CHECK(clear(*b.overlay, Operation::kWriteZeroes, 512, 512, false).error().code == EIO);
  b.below.errors[Kind::kRead] = 0;
  CHECK(run(job, *b.overlay).error().code == 0);
  CHECK(write(*b.overlay, 512, filled(512, 'x')).error().code == EIO);
  b.below.errors.clear();
  CHECK(b.as_model());
}

TEST_CASE("overlay: after a flush that failed none succeeds, and the map on the disk stays as it was") {
  base::log::Options quiet;
  quiet.level = base::log::Level::kOff;
  REQUIRE(base::log::configure(quiet));
  Bench b;
  b.write(0, filled(512, 'a'));
  REQUIRE(flush(*b.overlay));
  const Bytes before = b.model;
  b.write(4096, filled(512, 'b'));
  b.file.errors[Kind::kSync] = EIO;
  CHECK(flush(*b.overlay).error().code == EIO);
  // The kernel has forgotten it.
  b.file.errors.clear();
  CHECK(flush(*b.overlay).error().code == EIO);
  CHECK(b.as_model());
  CHECK_FALSE(b.overlay->close());
  b.reopen();
  CHECK_FALSE(b.overlay->was_clean());
  b.model = before;
  CHECK(b.as_model());
}

// ---- Anything, in any order ----

TEST_CASE("overlay: whatever is done to it, it is as an array") {
  const std::uint64_t size = GENERATE(512U, 7 * 4096U + 512, 40 * 4096U);
  const std::uint32_t cluster = GENERATE(4096U, 16384U);
  for (unsigned seed = 1; seed <= 12; ++seed) {
    CAPTURE(size, cluster, seed);
    std::mt19937 random(seed);
    const auto below = [&](std::uint64_t most) { return random() % most; };
    Bench b(size, cluster);
    for (int step = 0; step < 300; ++step) {
      if (below(4) == 0) b.file.script = {-EINTR};
      if (below(4) == 0) b.file.script.push_back(static_cast<std::int64_t>(1 + below(20000)));
      const std::uint64_t first = below(size / 512);
      const std::uint64_t most = below(3) == 0 ? size / 512 - first : std::min(size / 512 - first, 12UL);
      const std::uint64_t offset = first * 512;
      const std::uint64_t length = (1 + below(most)) * 512;
      const auto part = std::span(b.model).subspan(offset, length);
      switch (below(8)) {
        case 0:
        case 1:
        case 2:
          b.write(offset, filled(length, static_cast<char>(1 + below(255))), 1 + below(5000));
          break;
        case 3: {
          REQUIRE(clear(*b.overlay, Operation::kDiscard, offset, length, false));
          const std::uint64_t begin = (offset + cluster - 1) / cluster * cluster;
          const std::uint64_t end = offset + length == size ? size : (offset + length) / cluster * cluster;
          if (begin < end) std::ranges::fill(std::span(b.model).subspan(begin, end - begin), std::byte{0});
          break;
        }
        case 4:
          REQUIRE(clear(*b.overlay, Operation::kWriteZeroes, offset, length, below(2) == 0));
          std::ranges::fill(part, std::byte{0});
          break;
        case 5:
          REQUIRE(read(*b.overlay, offset, length, 1 + below(5000)) == copy(part));
          break;
        case 6:
          REQUIRE(flush(*b.overlay));
          break;
        default:
          b.file.script.clear();
          b.reopen();
      }
    }
    b.file.script.clear();
    REQUIRE(b.as_model());
    b.reopen();
    REQUIRE(b.as_model());
  }
}
