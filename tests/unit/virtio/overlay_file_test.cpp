// Overlays by path: made, opened, locked, matched with their base, shown and made flat.
#include "virtio/block/overlay/overlay_file.h"

#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <thread>

#include "base/file.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/virtio/overlay_bench.h"
#include "virtio/block/overlay/flatten.h"

using namespace mayfly;
using namespace mayfly::test::overlay;
using Catch::Contains;

namespace {

struct Place {
  test::TemporaryFolder folder;
  std::string base = folder.file("base", pattern(10 * 4096 + 512));
  std::string overlay = folder.path("overlay");

  static std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 + i / 512 + 1);
    return text;
  }
  [[nodiscard]] std::string error() const {
    auto opened = open_overlay(overlay, base);
    REQUIRE_FALSE(opened);
    CHECK(opened.error().message.find('\n') == std::string::npos);
    return opened.error().message;
  }
  void make() const { REQUIRE(open_overlay(overlay, base)); }
  void patch(const std::string& path, std::streamoff at, const std::string& bytes) const {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(at);
    file << bytes;
  }
  void replace_overlay(const std::string& content) const {
    CHECK(folder.file("overlay", content) == overlay);
  }
  [[nodiscard]] std::size_t files() const {
    const std::filesystem::directory_iterator entries(folder.path(""));
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }
};

std::string text_of(Overlay& overlay, std::uint64_t offset, std::size_t length) {
  const Bytes bytes = read(overlay, offset, length);
  std::string text(length, '\0');
  std::memcpy(text.data(), bytes.data(), length);
  return text;
}

struct stat stat_of(const std::string& path) {
  struct stat what {};
  REQUIRE(::stat(path.c_str(), &what) == 0);
  return what;
}

void set_time(const std::string& path, const struct timespec& time) {
  const std::array times = {time, time};
  REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times.data(), 0) == 0);
}

}  // namespace

TEST_CASE("overlay file: one that is missing is made, and is sparse") {
  const Place place;
  const std::string large = place.folder.file("large", "x");
  REQUIRE(::truncate(large.c_str(), 400 << 20) == 0);
  {
    auto overlay = open_overlay(place.overlay, large).value();
    CHECK(overlay->size().value() == 400U << 20U);
    CHECK(overlay->was_clean());
    CHECK(overlay->description().base_path == std::filesystem::canonical(large));
  }
  const auto what = stat_of(place.overlay);
  CHECK(what.st_size == static_cast<off_t>(overlay::Description{.base = {.size = 400U << 20U}}.file_size()));
  CHECK(what.st_blocks * 512 < 200 << 10);
  CHECK((what.st_mode & 07777) == 0600);
  // Nothing that was in the making is left.
  CHECK(place.files() == 3);
}

TEST_CASE("overlay file: what was written is there when it is opened again, and not in the base") {
  const Place place;
  {
    auto overlay = open_overlay(place.overlay, place.base).value();
    REQUIRE(write(*overlay, 512, filled(512, 'w')));
    REQUIRE(write(*overlay, 10 * 4096, filled(512, 'e')));
    REQUIRE(clear(*overlay, Operation::kDiscard, 4096, 4096, false));
  }
  auto overlay = open_overlay(place.overlay, place.base).value();
  std::string wanted = Place::pattern(10 * 4096 + 512);
  wanted.replace(512, 512, std::string(512, 'w'));
  wanted.replace(std::size_t{10} * 4096, 512, std::string(512, 'e'));
  wanted.replace(4096, 4096, std::string(4096, '\0'));
  CHECK(text_of(*overlay, 0, wanted.size()) == wanted);
  CHECK(base::read_file(place.base).value() == Place::pattern(10 * 4096 + 512));
}

TEST_CASE("overlay file: many on one base, each with its own content") {
  const Place place;
  std::vector<std::unique_ptr<Overlay>> overlays;
  for (char name = 'a'; name < 'k'; ++name) {
    overlays.push_back(open_overlay(place.folder.path(std::string(1, name)), place.base).value());
    REQUIRE(write(*overlays.back(), 512, filled(512, name)));
  }
  for (std::size_t i = 0; i < overlays.size(); ++i) {
    CHECK(text_of(*overlays[i], 512, 512) == std::string(512, static_cast<char>('a' + i)));
    CHECK(text_of(*overlays[i], 0, 512) == Place::pattern(512));
  }
}

TEST_CASE("overlay file: only one at a time writes, and nobody reads meanwhile") {
  const Place place;
  auto overlay = open_overlay(place.overlay, place.base).value();
  CHECK_THAT(place.error(), Contains(place.overlay) && Contains("is in use") && Contains("of its own"));
  CHECK_FALSE(open_overlay_to_read(place.overlay, ""));
  // Under another name, too.
  REQUIRE(::symlink(place.overlay.c_str(), place.folder.path("alias").c_str()) == 0);
  CHECK_FALSE(open_overlay(place.folder.path("alias"), place.base));
  overlay.reset();
  const auto reader = open_overlay_to_read(place.overlay, "").value();
  CHECK(open_overlay_to_read(place.overlay, place.base));
  CHECK_THAT(place.error(), Contains("is in use"));
}

TEST_CASE("overlay file: of several that make it at once, one has it") {
  const Place place;
  std::atomic<int> good = 0;
  std::vector<base::Result<std::unique_ptr<Overlay>>> opened(8);
  {
    std::vector<std::jthread> threads;
    for (auto& each : opened) {
      threads.emplace_back([&] { each = open_overlay(place.overlay, place.base); });
    }
  }
  for (const auto& each : opened) {
    if (each) ++good;
    if (!each) CHECK_THAT(each.error().message, Contains("is in use"));
  }
  CHECK(good == 1);
  CHECK(place.files() == 2);
}

// ---- The wrong base ----

TEST_CASE("overlay file: a base that was modified is refused") {
  const Place place;
  place.make();
  const auto then = stat_of(place.base).st_mtim;
  set_time(place.base, {.tv_sec = 1000, .tv_nsec = 5});
  const std::string remedy = fmt::format("touch -d @{}.{:09} {}", then.tv_sec, then.tv_nsec, place.base);
  CHECK_THAT(place.error(), Contains(place.overlay) && Contains("@1000.000000005") && Contains(remedy));
  set_time(place.base, then);
  place.make();
}

TEST_CASE("overlay file: a base of other content is refused, whatever its time") {
  const Place place;
  place.make();
  const auto then = stat_of(place.base).st_mtim;
  place.patch(place.base, 1100, "changed");
  set_time(place.base, then);
  CHECK_THAT(place.error(), Contains("the content of " + place.base));
}

TEST_CASE("overlay file: a base of another size is refused") {
  const Place place;
  place.make();
  REQUIRE(::truncate(place.base.c_str(), 4096) == 0);
  CHECK_THAT(place.error(), Contains("41472 bytes") && Contains("4096"));
}

TEST_CASE("overlay file: a copy of the base with its time is as good") {
  const Place place;
  place.make();
  const std::string copy = place.folder.file("copy", Place::pattern(10 * 4096 + 512));
  set_time(copy, stat_of(place.base).st_mtim);
  CHECK(open_overlay(place.overlay, copy));
}

TEST_CASE("overlay file: a base that is missing, or is an overlay, or the overlay itself") {
  const Place place;
  CHECK_FALSE(open_overlay(place.overlay, place.folder.path("nothing")));
  CHECK(place.files() == 1);
  place.make();
  const auto on_overlay = open_overlay(place.folder.path("second"), place.overlay);
  REQUIRE_FALSE(on_overlay);
  CHECK_THAT(on_overlay.error().message,
             Contains("is an overlay itself") && Contains("mayfly drive flatten"));
  CHECK_FALSE(open_overlay(place.overlay, place.overlay));
  REQUIRE(::unlink(place.base.c_str()) == 0);
  CHECK_THAT(place.error(), Contains(place.base) && Contains("No such file"));
}

// ---- The wrong file ----

TEST_CASE("overlay file: what is no overlay is refused, and left alone") {
  const Place place;
  const std::string other(8192, 'x');
  for (const std::string& content : {other, std::string("short"), std::string(), std::string(4097, 'x')}) {
    place.replace_overlay(content);
    CHECK_THAT(place.error(), Contains(place.overlay) && Contains("remove it to begin anew"));
    CHECK(base::read_file(place.overlay).value() == content);
  }
  REQUIRE(::unlink(place.overlay.c_str()) == 0);
  REQUIRE(::mkdir(place.overlay.c_str(), 0700) == 0);
  CHECK_THAT(place.error(), Contains("is no regular file"));
}

TEST_CASE("overlay file: one that is damaged is refused") {
  const Place place;
  place.make();
  const std::string good = base::read_file(place.overlay).value();
  place.patch(place.overlay, 8, "\x07");
  CHECK_THAT(place.error(), Contains("version 7"));
  place.replace_overlay(good);
  place.patch(place.overlay, 60, "else");
  CHECK_THAT(place.error(), Contains("checksum"));
  place.replace_overlay(good);
  place.patch(place.overlay, 4096, "\xff");
  CHECK_THAT(place.error(), Contains("cluster 0 has the state 3"));
  place.replace_overlay(good.substr(0, good.size() - 512));
  CHECK_THAT(place.error(), Contains("instead of"));
  place.replace_overlay(good);
  place.make();
}

TEST_CASE("overlay file: in a folder that is not there, or is no folder") {
  const Place place;
  for (const char* path : {"nowhere/overlay", "base/overlay"}) {
    const auto opened = open_overlay(place.folder.path(path), place.base);
    REQUIRE_FALSE(opened);
    CHECK_THAT(opened.error().message, Contains(place.folder.path(path)));
  }
  REQUIRE(::symlink("nowhere", place.overlay.c_str()) == 0);
  CHECK_THAT(place.error(), Contains("No such file"));
}

// ---- Tools ----

TEST_CASE("overlay file: made by itself, never over what is there") {
  const Place place;
  REQUIRE(create_overlay(place.overlay, place.base, 65536));
  CHECK(open_overlay(place.overlay, place.base).value()->description().cluster_size == 65536);
  const auto again = create_overlay(place.overlay, place.base, 0);
  REQUIRE_FALSE(again);
  CHECK_THAT(again.error().message, Contains("exists already"));
  CHECK_FALSE(create_overlay(place.folder.path("odd"), place.base, 5000));
  CHECK(place.files() == 2);
}

TEST_CASE("overlay file: what is shown of one") {
  const Place place;
  {
    auto overlay = open_overlay(place.overlay, place.base).value();
    REQUIRE(write(*overlay, 512, filled(8192, 'w')));
    REQUIRE(clear(*overlay, Operation::kDiscard, 5 * 4096, 4096, false));
    const Summary used = inspect_overlay(place.overlay, "").value();
    CHECK(used.in_use);
    CHECK_FALSE(used.clean);
    CHECK(used.clusters.data == 0);
    REQUIRE(flush(*overlay));
    CHECK(inspect_overlay(place.overlay, "").value().clusters.data == 3);
  }
  const Summary summary = inspect_overlay(place.overlay, "").value();
  CHECK_FALSE(summary.in_use);
  CHECK(summary.clean);
  CHECK(summary.clusters.data == 3);
  CHECK(summary.clusters.zero == 1);
  CHECK(summary.clusters.base == 7);
  CHECK(summary.base_path == std::filesystem::canonical(place.base));
  CHECK(summary.base_state);
  CHECK(summary.disk_bytes >= 3 * 4096);
  place.patch(place.overlay, kInUseOffset, "\1");
  CHECK_FALSE(inspect_overlay(place.overlay, "").value().clean);
  place.patch(place.base, 0, "changed");
  CHECK_FALSE(inspect_overlay(place.overlay, "").value().base_state);
  CHECK_FALSE(inspect_overlay(place.overlay, place.folder.path("nothing")).value().base_state);
  CHECK_FALSE(inspect_overlay(place.base, ""));
}

TEST_CASE("overlay file: flat, it is what was read from it") {
  const Place place;
  const std::string base = place.folder.file("wide", Place::pattern(2 << 20));
  REQUIRE(::truncate(base.c_str(), (5 << 20) + 512) == 0);
  {
    auto overlay = open_overlay(place.overlay, base).value();
    REQUIRE(write(*overlay, 512, filled(8192, 'w')));
    REQUIRE(write(*overlay, 5 << 20, filled(512, 'e')));
    REQUIRE(clear(*overlay, Operation::kDiscard, 1 << 20, 1 << 20, false));
  }
  auto overlay = open_overlay_to_read(place.overlay, base).value();
  const std::string wanted = text_of(*overlay, 0, (5 << 20) + 512);
  const std::string flat = place.folder.file("flat", "");
  const base::UniqueFd fd = base::open_file(flat, O_RDWR).value();
  std::uint64_t last = 0;
  const auto forward = [&](std::uint64_t done) {
    CHECK(done > last);
    last = done;
    return true;
  };
  REQUIRE(flatten(*overlay, fd.get(), forward));
  CHECK(last == wanted.size());
  CHECK((base::read_file(flat).value() == wanted));
  CHECK(stat_of(flat).st_blocks * 512 < (1 << 20) + (128 << 10));
  const auto given_up = flatten(*overlay, fd.get(), [](std::uint64_t) { return false; });
  REQUIRE_FALSE(given_up);
  CHECK(given_up.error().code == ECANCELED);
}
