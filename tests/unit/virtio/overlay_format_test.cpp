// What an overlay file may look like, and what is refused.
#include <catch2/catch.hpp>

#include <cstring>

#include "tests/unit/virtio/overlay_bench.h"

using namespace mayfly;
using namespace mayfly::test::overlay;
using Catch::Contains;

namespace {

// A header with a field of its start changed, and a checksum that is right for it.
HeaderBytes changed(const Description& description, const std::function<void(HeaderStart&)>& change) {
  HeaderBytes header = encode(description);
  HeaderStart start;
  std::memcpy(&start, header.data(), sizeof(start));
  change(start);
  std::memcpy(header.data(), &start, sizeof(start));
  start.checksum = checksum(header);
  std::memcpy(header.data(), &start, sizeof(start));
  return header;
}

std::string error_of(const HeaderBytes& header) {
  const auto decoded = decode(header);
  REQUIRE_FALSE(decoded);
  return decoded.error().message;
}

}  // namespace

TEST_CASE("overlay header: what is encoded is decoded") {
  const Description description{.cluster_size = 8192,
                                .base = {.size = 419430400,
                                         .modified_seconds = 0xfffffffffffffff0,
                                         .modified_nanoseconds = 999'999'999,
                                         .fingerprint = 0x123456789abcdef0},
                                .base_path = "/images/base.ext4"};
  const auto decoded = decode(encode(description));
  REQUIRE(decoded);
  CHECK(decoded->cluster_size == 8192);
  CHECK(decoded->base == description.base);
  CHECK(decoded->base_path == description.base_path);
  CHECK(decode(encode({.base = {.size = 512}, .base_path = std::string(kMostPath, 'p')})));
}

TEST_CASE("overlay header: bytes at the offsets of docs/overlay.md") {
  const HeaderBytes header =
      encode({.cluster_size = 65536,
              .base = {.size = 0x1000200, .modified_seconds = 5, .modified_nanoseconds = 6, .fingerprint = 7},
              .base_path = "/b"});
  CHECK(std::memcmp(header.data(),
                    "MAYFLYOV\1\0\0\0\0\0\1\0\0\2\0\1\0\0\0\0\5\0\0\0\0\0\0\0\6\0\0\0\2\0\0\0\7\0\0\0\0"
                    "\0\0\0",
                    48) == 0);
  CHECK(std::memcmp(header.data() + 56, "/b\0", 3) == 0);
  const Description description = decode(header).value();
  CHECK(description.clusters() == 257);
  CHECK(description.map_size() == 4096);
  CHECK(description.data_offset() == 65536);
  CHECK(description.file_size() == 65536 + 0x1000200);
}

TEST_CASE("overlay header: FNV-1a") {
  CHECK(hash({}) == 0xcbf29ce484222325);
  const std::string text = "foobar";
  CHECK(hash(std::as_bytes(std::span(text))) == 0x85944171f73967e8);
}

TEST_CASE("overlay header: each wrong field is refused by name") {
  const Description good{.base = {.size = 40960}, .base_path = "/base"};
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.magic[0] = 'm'; })),
             Contains("does not begin with"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.version = 2U; })), Contains("version 2"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.cluster_size = 0U; })),
             Contains("cluster size is 0"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.cluster_size = 2048U; })), Contains("2048"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.cluster_size = 12288U; })), Contains("12288"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.cluster_size = 131072U; })), Contains("131072"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.disk_size = 0ULL; })), Contains("0 bytes"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.disk_size = 1000ULL; })), Contains("1000 bytes"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.disk_size = ~511ULL; })),
             Contains("more than the"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.base_path_size = 3529U; })),
             Contains("3529 bytes"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.base_path_size = 6U; })), Contains("NUL"));
  CHECK_THAT(error_of(changed(good, [](HeaderStart& h) { h.base_modified_nanoseconds = 1'000'000'000U; })),
             Contains("1000000000"));
}

TEST_CASE("overlay header: no byte of it may change unseen") {
  const HeaderBytes good = encode({.base = {.size = 40960}, .base_path = "/base"});
  for (std::size_t at = 0; at < kFixedSize; ++at) {
    HeaderBytes header = good;
    header[at] ^= std::byte{0x10};
    REQUIRE_FALSE(decode(header));
  }
}

TEST_CASE("overlay header: clusters grow with the disk, so that the map does not") {
  constexpr std::uint64_t kGiB = 1ULL << 30U;
  CHECK(default_cluster_size(512) == 4096);
  CHECK(default_cluster_size(64 * kGiB) == 4096);
  CHECK(default_cluster_size(65 * kGiB) == 8192);
  CHECK(default_cluster_size(1024 * kGiB) == 65536);
  CHECK(default_cluster_size(16384 * kGiB) == 65536);
  CHECK(check({.cluster_size = 65536, .base = {.size = 16384 * kGiB}}));
  CHECK_FALSE(check({.cluster_size = 65536, .base = {.size = 16384 * kGiB + 512}}));
}

TEST_CASE("overlay: a file whose length is not what its header says is refused") {
  Bench b;
  const std::uint64_t right = b.description.file_size();
  for (const std::uint64_t size : {right - 512, right + 512, std::uint64_t{kHeaderSize}}) {
    b.file.resize(size);
    CHECK_THAT(b.open_error(), Contains(fmt::format("{} bytes instead of {}", size, right)));
  }
  b.file.resize(kHeaderSize - 512);
  CHECK_THAT(b.open_error(), Contains("fewer than an overlay's header"));
}

TEST_CASE("overlay: a map that cannot be is refused by its entry") {
  Bench b;
  b.file.bytes()[kMapOffset + 1] = std::byte{0x30};
  CHECK_THAT(b.open_error(), Contains("cluster 6 has the state 3"));
  b.file.bytes()[kMapOffset + 1] = std::byte{0};
  // Ten clusters.
  b.file.bytes()[kMapOffset + 2] = std::byte{0x10};
  CHECK_THAT(b.open_error(), Contains("entry 10 of 16384 is set, and the disk has 10 clusters"));
  b.file.bytes()[kMapOffset + 2] = std::byte{0};
  b.file.bytes()[kMapOffset + 4095] = std::byte{0x40};
  CHECK_THAT(b.open_error(), Contains("entry 16383"));
}

TEST_CASE("overlay: what is neither in use nor not in use is refused") {
  Bench b;
  b.file.bytes()[kInUseOffset] = std::byte{2};
  CHECK_THAT(b.open_error(), Contains("at 3584 is 2"));
}

TEST_CASE("overlay: a base of another size is refused") {
  Bench b;
  b.below.resize(9 * 4096);
  CHECK_THAT(b.open_error(), Contains("had 40960 bytes") && Contains("36864"));
}

TEST_CASE("overlay: files that cannot be read are refused") {
  Bench b;
  b.file.errors[Kind::kRead] = EIO;
  CHECK_THAT(b.open_error(), Contains("read 4096 bytes at 0"));
  b.file.errors.clear();
  b.file.size_error = EIO;
  CHECK_FALSE(b.open_files());
  b.file.size_error.reset();
  b.below.size_error = EIO;
  CHECK_FALSE(b.open_files());
}

// ---- The map ----

TEST_CASE("cluster map: runs and states are as in an array") {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t clusters = 1 + random() % 100;
    ClusterMap map = ClusterMap::create(clusters, kMapBlock).value();
    std::vector<ClusterState> model(clusters, ClusterState::kBase);
    for (int step = 0; step < 20; ++step) {
      const std::uint64_t first = random() % clusters;
      const std::uint64_t count = random() % (clusters - first + 1);
      const auto state = static_cast<ClusterState>(random() % 3);
      map.set(first, count, state);
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, state);
      ClusterCounts counts;
      for (std::uint64_t i = 0; i < clusters; ++i) {
        REQUIRE(map.at(i) == model[i]);
        std::uint64_t run = 1;
        while (i + run < clusters && model[i + run] == model[i]) ++run;
        REQUIRE(map.run(i, clusters) == run);
        REQUIRE(map.run(i, 3) == std::min<std::uint64_t>(run, 3));
        counts.base += model[i] == ClusterState::kBase ? 1U : 0U;
        counts.data += model[i] == ClusterState::kData ? 1U : 0U;
        counts.zero += model[i] == ClusterState::kZero ? 1U : 0U;
      }
      REQUIRE(map.count().base == counts.base);
      REQUIRE(map.count().data == counts.data);
      REQUIRE(map.count().zero == counts.zero);
      REQUIRE(map.check());
    }
  }
}

TEST_CASE("cluster map: blocks that changed, side by side as one") {
  constexpr std::uint64_t kPerBlock = kMapBlock * kClustersPerMapByte;
  ClusterMap map = ClusterMap::create(8 * kPerBlock, 8 * kMapBlock).value();
  CHECK_FALSE(map.dirty());
  CHECK_FALSE(map.next_dirty(0));
  map.set(3, 0, ClusterState::kData);
  CHECK_FALSE(map.dirty());
  map.set(kPerBlock - 1, 2, ClusterState::kData);
  map.set(7 * kPerBlock, 1, ClusterState::kZero);
  const auto first = map.next_dirty(0);
  REQUIRE(first);
  CHECK(first->offset == 0);
  CHECK(first->bytes.size() == 2 * kMapBlock);
  const auto second = map.next_dirty(2 * kMapBlock);
  REQUIRE(second);
  CHECK(second->offset == 7 * kMapBlock);
  CHECK(second->bytes.size() == kMapBlock);
  CHECK(second->bytes[0] == std::byte{2});
  CHECK_FALSE(map.next_dirty(8 * kMapBlock));
  map.mark_clean();
  CHECK_FALSE(map.dirty());
}
