// Overlays when the power goes: after each call on the file, with any part of what was not synced on the
// disk, each sector is as it was at the last flush or as something was written since.
#include <catch2/catch.hpp>

#include <cerrno>
#include <optional>
#include <set>

#include "base/log.h"
#include "tests/unit/virtio/overlay_bench.h"

using namespace mayfly;
using namespace mayfly::test::overlay;

namespace {

constexpr std::size_t kSector = 512;

// A file on a disk with a cache: what was written is on the disk only after a sync, and before that any
// sector of it may be, in any order.
class CachedDisk {
 public:
  explicit CachedDisk(Bytes content) : seen_(content), stable_(std::move(content)) {}

  std::int64_t perform(const Call& call) {
    if (calls_left && (*calls_left)-- == 0) off_ = true;
    if (off_) return -EIO;
    ++calls;
    switch (call.kind) {
      case Kind::kRead:
        return move(call, [&](std::byte* to, std::size_t at, std::size_t n) {
          std::copy_n(seen_.begin() + static_cast<std::ptrdiff_t>(at), n, to);
        });
      case Kind::kWrite:
        return move(call, [&](const std::byte* from, std::size_t at, std::size_t n) { put(at, {from, n}); });
      case Kind::kSync:
        stable_ = seen_;
        pending_.clear();
        return 0;
      default:
        put(call.offset, Bytes(call.length));
        return 0;
    }
  }
  [[nodiscard]] std::uint64_t size() const { return seen_.size(); }
  // What may be found after the power went now.
  [[nodiscard]] Bytes after_crash(std::mt19937& random) const {
    Bytes found = stable_;
    const auto share = random() % 5;  // of what was not synced: none to all of it
    for (const auto& [sector, bytes] : pending_) {
      if (random() % 4 < share)
        std::ranges::copy(bytes, found.begin() + static_cast<std::ptrdiff_t>(sector * kSector));
    }
    return found;
  }

  std::optional<int> calls_left;  // until the power goes
  int calls = 0;

 private:
  template <typename Move>
  std::int64_t move(const Call& call, const Move& one) {
    std::size_t at = call.offset;
    for (const iovec& piece : call.pieces) {
      const std::size_t n = std::min(piece.iov_len, seen_.size() - at);
      one(static_cast<std::byte*>(piece.iov_base), at, n);
      at += n;
    }
    return static_cast<std::int64_t>(at - call.offset);
  }
  void put(std::size_t offset, std::span<const std::byte> bytes) {
    std::ranges::copy(bytes, seen_.begin() + static_cast<std::ptrdiff_t>(offset));
    for (std::size_t sector = offset / kSector; sector * kSector < offset + bytes.size(); ++sector) {
      const auto begin = seen_.begin() + static_cast<std::ptrdiff_t>(sector * kSector);
      pending_.emplace_back(sector, Bytes(begin, begin + kSector));
    }
  }

  Bytes seen_;
  Bytes stable_;
  std::vector<std::pair<std::size_t, Bytes>> pending_;  // sectors as they were, in turn
  bool off_ = false;
};

class CachedMedium final : public Medium {
 public:
  explicit CachedMedium(CachedDisk& disk) : disk_(disk) {}
  base::Result<std::uint64_t> size() override { return disk_.size(); }
  [[nodiscard]] Geometry geometry() const override { return {}; }
  std::int64_t perform(const Call& call) override { return disk_.perform(call); }

 private:
  CachedDisk& disk_;
};

constexpr std::uint64_t kClusters = 12;

// Sectors hold one value throughout, so that what is found tells when it was written.
struct Scene {
  explicit Scene(unsigned seed, std::uint32_t cluster)
      : random(seed),
        sectors(kClusters * cluster / kSector - 3),  // a part of a cluster at the end
        description{.cluster_size = cluster, .base = {.size = sectors * kSector}, .base_path = "/base"},
        below(sectors * kSector),
        file([&] {
          Bytes content(description.file_size());
          std::ranges::copy(encode(description), content.begin());
          return content;
        }()),
        allowed(sectors, {std::byte{'b'}}),
        current(sectors, std::byte{'b'}) {
    below.fill(std::byte{'b'});
  }
  std::unique_ptr<Overlay> open(CachedDisk& disk) {
    return test::overlay::open(std::make_unique<CachedMedium>(disk),
                               std::make_unique<test::FakeMedium>(below))
        .value();
  }
  void note(std::uint64_t first, std::uint64_t count, std::byte value) {
    for (std::uint64_t i = first; i < first + count; ++i) {
      allowed[i].insert(value);
      current[i] = value;
    }
  }
  void step(Medium& overlay) {
    const std::uint64_t first = random() % sectors;
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(sectors - first, 20);
    switch (random() % 6) {
      case 0:
        if (flush(overlay)) {
          for (std::uint64_t i = 0; i < sectors; ++i) allowed[i] = {current[i]};
        }
        return;
      case 1: {
        // Each sector, or as before.
        const std::vector<std::byte> before = current;
        note(first, count, std::byte{0});
        if (clear(overlay, Operation::kDiscard, first * kSector, count * kSector, false)) {
          for (std::uint64_t i = first; i < first + count; ++i) {
            const bool whole = is_whole(i, first, count);
            current[i] = whole ? std::byte{0} : before[i];
          }
        }
        return;
      }
      case 2:
        note(first, count, std::byte{0});
        static_cast<void>(
            clear(overlay, Operation::kWriteZeroes, first * kSector, count * kSector, random() % 2 == 0));
        return;
      default:
        const auto value = static_cast<char>(1 + random() % 255);
        note(first, count, static_cast<std::byte>(value));
        static_cast<void>(
            test::overlay::write(overlay, first * kSector, filled(count * kSector, value), 4096));
    }
  }
  // Whether a discard of these sectors covers the cluster of sector i.
  [[nodiscard]] bool is_whole(std::uint64_t i, std::uint64_t first, std::uint64_t count) const {
    const std::uint64_t each = description.cluster_size / kSector;
    const std::uint64_t begin = i / each * each;
    return begin >= first && std::min(begin + each, sectors) <= first + count;
  }
  void check(const Bytes& content) {
    for (std::uint64_t i = 0; i < sectors; ++i) {
      const auto sector = std::span(content).subspan(i * kSector, kSector);
      CAPTURE(i, static_cast<int>(sector[0]));
      REQUIRE(std::ranges::all_of(sector, [&](std::byte byte) { return byte == sector[0]; }));
      REQUIRE(allowed[i].contains(sector[0]));
    }
  }

  std::mt19937 random;
  std::uint64_t sectors;
  Description description;
  test::FakeDisk below;
  CachedDisk file;
  std::vector<std::set<std::byte>> allowed;  // by sector
  std::vector<std::byte> current;
};

constexpr int kSteps = 25;

// How many calls on the file the whole takes.
int count_calls(unsigned seed, std::uint32_t cluster) {
  Scene scene(seed, cluster);
  auto overlay = scene.open(scene.file);
  for (int step = 0; step < kSteps; ++step) scene.step(*overlay);
  overlay.reset();
  return scene.file.calls;
}

void crash_after(int calls, unsigned seed, std::uint32_t cluster) {
  Scene scene(seed, cluster);
  auto overlay = scene.open(scene.file);
  scene.file.calls_left = calls;
  for (int step = 0; step < kSteps && scene.file.calls < calls; ++step) scene.step(*overlay);
  overlay.reset();
  for (int variant = 0; variant < 4; ++variant) {
    CAPTURE(calls, seed, cluster, variant);
    CachedDisk found(scene.file.after_crash(scene.random));
    auto again = scene.open(found);
    scene.check(read(*again, 0, scene.sectors * kSector, 4096));
    // It goes on as if nothing had been.
    REQUIRE(write(*again, 512, filled(512, 'n')));
    REQUIRE(flush(*again));
    REQUIRE(read(*again, 512, 512) == filled(512, 'n'));
  }
}

}  // namespace

TEST_CASE("overlay: a crash after any call leaves the old or the new, and all that was flushed") {
  base::log::Options quiet;
  quiet.level = base::log::Level::kOff;
  REQUIRE(base::log::configure(quiet));
  const std::uint32_t cluster = GENERATE(4096U, 8192U);
  for (unsigned seed = 1; seed <= 5; ++seed) {
    const int all = count_calls(seed, cluster);
    for (int calls = 4; calls <= all; ++calls) crash_after(calls, seed, cluster);
  }
}

TEST_CASE("overlay: a process that is killed leaves what was flushed, and the file in order") {
  Scene scene(1, 4096);
  auto overlay = scene.open(scene.file);
  REQUIRE(write(*overlay, 0, filled(4096, 'f')));
  REQUIRE(flush(*overlay));
  REQUIRE(write(*overlay, 0, filled(512, 'g')));
  REQUIRE(write(*overlay, 4096, filled(512, 'h')));
  scene.file.calls_left = 0;
  overlay.reset();
  // Nothing more is written, and nothing is lost of what was.
  Bytes all(scene.file.size());
  std::mt19937 random(3);
  for (int i = 0; i < 20; ++i) {
    CachedDisk found(scene.file.after_crash(random));
    auto again = scene.open(found);
    CHECK_FALSE(again->was_clean());
    CHECK(read(*again, 512, 4096 - 512) == filled(4096 - 512, 'f'));
    CHECK(read(*again, 4096, 4096) == filled(4096, 'b'));
  }
}
