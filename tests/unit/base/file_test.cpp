#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <catch2/catch.hpp>
#include <filesystem>

#include "base/log.h"

using namespace mayfly::base;

namespace {

struct Folder {
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "mayfly-test-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

std::size_t entries(const std::string& folder) {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

}  // namespace

TEST_CASE("an atomically written file has its content and mode, and leaves nothing beside it") {
  const Folder folder;
  const std::string path = folder.path + "/f";
  REQUIRE(write_file_atomically(path, "one", 0640).has_value());
  REQUIRE(write_file_atomically(path, "two", 0600).has_value());
  CHECK(*read_file(path) == "two");
  struct stat what {};
  REQUIRE(::stat(path.c_str(), &what) == 0);
  CHECK((what.st_mode & 0777U) == 0600);
  CHECK(entries(folder.path) == 1);
}

TEST_CASE("a write that fails leaves the old file and nothing else") {
  const Folder folder;
  CHECK_FALSE(write_file_atomically(folder.path + "/missing/f", "x").has_value());
  std::filesystem::create_directory(folder.path + "/d");
  const auto written = write_file_atomically(folder.path + "/d", "x");  // a file cannot replace a folder
  REQUIRE_FALSE(written.has_value());
  CHECK_THAT(written.error().message, Catch::Contains(folder.path + "/d"));
  CHECK(entries(folder.path) == 1);
}

TEST_CASE("/dev/fd/N is a descriptor that was passed in, for the access that it has") {
  const Folder folder;
  const std::string path = folder.path + "/f";
  REQUIRE(write_file_atomically(path, "content").has_value());
  const UniqueFd reads = *open_file(path, O_RDONLY);
  const UniqueFd both = *open_file(path, O_RDWR);
  const auto passed = [](const UniqueFd& fd) { return fmt::format("/dev/fd/{}", fd.get()); };
  // Whatever became of the name, as it is in a jail.
  std::filesystem::remove(path);
  CHECK(*read_file(passed(reads)) == "content");
  const auto again = open_file(passed(both), O_RDWR);
  REQUIRE(again.has_value());
  CHECK((::fcntl(again->get(), F_GETFD) & FD_CLOEXEC) != 0);
  CHECK(again->get() != both.get());
  CHECK(open_file(passed(both), O_RDONLY).has_value());
  CHECK(open_file(passed(reads), O_RDWR).error().code == EACCES);
  CHECK(open_file("/dev/fd/987654", O_RDONLY).error().code == EBADF);
  // What is only added to never waits, and nobody who shares it is kept from waiting.
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  const UniqueFd reader(ends[0]);
  const UniqueFd writer(ends[1]);
  const auto log = open_to_append(passed(writer));
  REQUIRE(log.has_value());
  CHECK((::fcntl(log->get(), F_GETFL) & O_NONBLOCK) != 0);
  CHECK((::fcntl(writer.get(), F_GETFL) & O_NONBLOCK) == 0);
  for (const char* other :
       {"/dev/fd/", "/dev/fd/-1", "/dev/fd/1x", "/dev/fd/99999999999", "dev/fd/1", "/dev/fd/1/"}) {
    CHECK_FALSE(passed_descriptor(other).has_value());
  }
}

TEST_CASE("a file that is too large or ends early is an error") {
  const Folder folder;
  const std::string path = folder.path + "/f";
  REQUIRE(write_file_atomically(path, "12345").has_value());
  CHECK_FALSE(read_file(path, 4).has_value());
  CHECK(read_file(path, 5).has_value());
  const auto fd = open_file(path, O_RDONLY);
  REQUIRE(fd.has_value());
  std::array<std::byte, 4> buffer{};
  CHECK(read_exactly_at(fd->get(), buffer, 1).has_value());
  CHECK_FALSE(read_exactly_at(fd->get(), buffer, 2).has_value());
  CHECK_THAT(open_file(folder.path + "/none", O_RDONLY).error().message,
             Catch::Contains("/none: No such file or directory"));
}

TEST_CASE("log lines below the level are left out, the others carry id and level") {
  const Folder folder;
  const std::string path = folder.path + "/log";
  REQUIRE(
      log::configure({.path = path, .level = log::Level::kInfo, .show_level = true, .instance_id = "vm-1"}));
  log::debug("hidden {}", 1);
  log::info("shown {}", 2);
  const std::string content = *read_file(path);
  CHECK_THAT(content, Catch::Contains("vm-1:"));
  CHECK_THAT(content, Catch::Contains(":Info] shown 2\n"));
  CHECK_THAT(content, !Catch::Contains("hidden"));
  REQUIRE(log::configure({}));
}

TEST_CASE("what is quoted in a log line cannot begin another one") {
  const Folder folder;
  const std::string path = folder.path + "/log";
  REQUIRE(log::configure({.path = path, .level = log::Level::kInfo, .instance_id = "vm-1"}));
  log::info("PUT /a{}b\x1b[31m\x7f\x01 é", "\r\n2026-01-01 [x:vmm] forged\n");
  const std::string content = *read_file(path);
  CHECK(std::ranges::count(content, '\n') == 1);
  CHECK_THAT(content, Catch::EndsWith("] PUT /a??2026-01-01 [x:vmm] forged?b?[31m?? é\n"));
  REQUIRE(log::configure({}));
}

TEST_CASE("a log FIFO that nobody reads is filled, then lines are counted as lost") {
  const Folder folder;
  const std::string path = folder.path + "/fifo";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  REQUIRE(
      log::configure({.path = path, .level = log::Level::kInfo, .show_level = false, .instance_id = "x"}));
  const std::uint64_t before = log::lost_lines();
  for (int i = 0; i < 100; ++i) log::info("{}", std::string(3000, 'x'));
  CHECK(log::lost_lines() > before);
  CHECK(log::lost_lines() < before + 100);
  REQUIRE(log::configure({}));
}

TEST_CASE("the limiter lets ten lines of a storm through") {
  log::Limiter limiter;
  int allowed = 0;
  for (int i = 0; i < 100000; ++i) allowed += limiter.allow() ? 1 : 0;
  CHECK(allowed >= 10);
  CHECK(allowed <= 30);  // more than one window only if this took five seconds
}

TEST_CASE("levels are known by name in any case") {
  CHECK(log::parse_level("warn") == log::Level::kWarning);
  CHECK(log::parse_level("TRACE") == log::Level::kTrace);
  CHECK_FALSE(log::parse_level("").has_value());
  CHECK_FALSE(log::parse_level("verbose").has_value());
}

TEST_CASE("the place in the source is shown and filtered by") {
  const Folder folder;
  const std::string path = folder.path + "/log";
  const auto logged = [&](const std::string& module) {
    REQUIRE(log::configure({.path = path, .show_origin = true, .module = module, .instance_id = "x"}));
    log::info("from {}", module);
    REQUIRE(log::configure({}));
    return *read_file(path);
  };
  CHECK_THAT(logged("vmm"), !Catch::Contains("from"));
  CHECK_THAT(logged("tests/unit"), Catch::Contains(":tests/unit/base/file_test.cpp:"));
  CHECK_THAT(logged("tests::unit::base"), Catch::Contains("] from tests::unit::base\n"));
}
