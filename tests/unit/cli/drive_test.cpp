// mayfly drive, from its words to its files.
#include "cli/drive.h"

#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "cli/drive_command.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;
using Catch::Contains;
using virtio::block::Call;
using virtio::block::overlay::inspect_overlay;
using virtio::block::overlay::open_overlay;

namespace {

struct Place {
  test::TemporaryFolder folder;
  std::string base = folder.file("base", std::string(65536, 'b'));
  std::string overlay = folder.path("overlay");
  std::string flat = folder.path("flat");

  [[nodiscard]] base::Result<int> drive(std::vector<std::string> words) const { return drive_command(words); }
  [[nodiscard]] std::string error(std::vector<std::string> words) const {
    const auto result = drive_command(words);
    REQUIRE_FALSE(result);
    CHECK(result.error().message.find('\n') == std::string::npos);
    return result.error().message;
  }
  void write(std::uint64_t offset, std::string text) const {
    const auto opened = open_overlay(overlay, base).value();
    const iovec piece{.iov_base = text.data(), .iov_len = text.size()};
    REQUIRE(opened->perform({.kind = Call::Kind::kWrite, .pieces = std::span(&piece, 1), .offset = offset}) >
            0);
  }
  [[nodiscard]] std::size_t files() const {
    const std::filesystem::directory_iterator entries(folder.path(""));
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
  }
};

}  // namespace

TEST_CASE("drive: created, written to, and made flat") {
  const Place place;
  REQUIRE(place.drive({"create", "-q", "--base", place.base, "--cluster-size", "16", place.overlay}) == 0);
  CHECK(inspect_overlay(place.overlay, "").value().description.cluster_size == 16384);
  place.write(512, std::string(512, 'w'));
  REQUIRE(place.drive({"flatten", "-q", place.overlay, "-o", place.flat}) == 0);
  std::string wanted(65536, 'b');
  wanted.replace(512, 512, std::string(512, 'w'));
  CHECK((base::read_file(place.flat).value() == wanted));
  CHECK(place.files() == 3);
}

TEST_CASE("drive: nothing is overwritten unless it is said, and never what is read") {
  const Place place;
  REQUIRE(place.drive({"create", "-q", "--base", place.base, place.overlay}) == 0);
  CHECK_THAT(place.error({"create", "--base", place.base, place.overlay}), Contains("exists already"));
  const std::string there = place.folder.file("flat", "there");
  CHECK_THAT(place.error({"flatten", place.overlay, "-o", there}), Contains(there) && Contains("--force"));
  CHECK(base::read_file(there).value() == "there");
  REQUIRE(place.drive({"flatten", "-q", "--force", place.overlay, "-o", there}) == 0);
  CHECK((base::read_file(there).value() == std::string(65536, 'b')));
  for (const std::string& input : {place.base, place.overlay}) {
    CHECK_THAT(place.error({"flatten", "--force", place.overlay, "-o", input}), Contains("is made from it"));
  }
  CHECK_THAT(place.error({"flatten", "--force", place.overlay, "-o", place.folder.path("")}),
             Contains("no regular file"));
  CHECK_FALSE(place.drive({"flatten", place.overlay, "-o", place.folder.path("nowhere/flat")}));
  CHECK(place.files() == 3);
}

TEST_CASE("drive: one that a machine uses is shown, and not made flat") {
  const Place place;
  const auto opened = open_overlay(place.overlay, place.base).value();
  CHECK_THAT(place.error({"flatten", place.overlay, "-o", place.flat}), Contains("is in use"));
  CHECK_THAT(as_text("o", inspect_overlay(place.overlay, "").value()), Contains("state     in use"));
  CHECK(place.files() == 2);
}

TEST_CASE("drive: a base elsewhere is said with --base, and has to be the right one") {
  const Place place;
  REQUIRE(place.drive({"create", "-q", "--base", place.base, place.overlay}) == 0);
  const std::string moved = place.folder.path("moved");
  std::filesystem::rename(place.base, moved);
  CHECK_THAT(place.error({"flatten", place.overlay, "-o", place.flat}), Contains(place.base));
  CHECK(place.drive({"flatten", "-q", place.overlay, "--base", moved, "-o", place.flat}) == 0);
  const std::string wrong = place.folder.file("wrong", std::string(65536, 'x'));
  CHECK_THAT(place.error({"flatten", place.overlay, "--base", wrong, "-o", place.folder.path("other")}),
             Contains("the content of " + wrong));
}

TEST_CASE("drive: interrupted, it leaves nothing behind") {
  const Place place;
  REQUIRE(place.drive({"create", "-q", "--base", place.base, place.overlay}) == 0);
  // Held back until then, and taken away again below.
  sigset_t interrupt;
  ::sigemptyset(&interrupt);
  ::sigaddset(&interrupt, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
  ::raise(SIGINT);
  CHECK_THAT(place.error({"flatten", place.overlay, "-o", place.flat}), Contains("interrupted"));
  const timespec now{};
  CHECK(::sigtimedwait(&interrupt, nullptr, &now) == SIGINT);
  ::pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
  CHECK(place.files() == 2);
}

TEST_CASE("drive: what is shown, for people and for programs") {
  const Place place;
  place.write(512, std::string(512, 'w'));
  place.write(4096, std::string(512, 'w'));
  const auto summary = inspect_overlay(place.overlay, "").value();
  CHECK(as_size(512) == "0 KiB");
  CHECK(as_size(1536U << 10U) == "1.5 MiB");
  const std::string text = as_text(place.overlay, summary);
  CHECK_THAT(
      text, Contains("overlay   " + place.overlay) && Contains(place.base) && Contains("65536 bytes") &&
                Contains("16 of 4 KiB: 2 written, 0 zeroed, 14 the base's") && Contains("state     clean\n"));
  const auto json = nlohmann::json::parse(as_json(place.overlay, summary));
  CHECK(json["overlay"] == place.overlay);
  CHECK(json["base_state"] == "good");
  CHECK(json["disk_bytes"] == 65536);
  CHECK(json["cluster_bytes"] == 4096);
  CHECK(json["clusters"] == nlohmann::json{{"total", 16}, {"written", 2}, {"zeroed", 0}, {"base", 14}});
  CHECK(json["on_disk_bytes"] >= 8192);
  CHECK(json["state"] == "clean");
  REQUIRE(place.folder.file("base", "changed") == place.base);
  CHECK_THAT(as_text(place.overlay, inspect_overlay(place.overlay, "").value()),
             Contains("cannot be used: "));
}

TEST_CASE("drive: wrong words are refused by name") {
  const Place place;
  CHECK_THAT(place.error({}), Contains("subcommand"));
  CHECK_THAT(place.error({"shrink"}), Contains("drive shrink"));
  CHECK_THAT(place.error({"create", place.overlay}), Contains("--base"));
  CHECK_THAT(place.error({"create", "--base", place.base, "--cluster-size", "5", place.overlay}),
             Contains("5"));
  CHECK_THAT(place.error({"flatten", place.overlay}), Contains("--output"));
  CHECK_THAT(place.error({"show", place.base}), Contains("MAYFLYOV") && Contains(place.base));
  CHECK(place.files() == 1);
  for (const char* command : {"create", "show", "flatten"}) CHECK(place.drive({command, "--help"}) == 0);
  CHECK(place.drive({"--help"}) == 0);
}
