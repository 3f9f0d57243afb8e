// Files as disks.
#include <catch2/catch.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tests/support/temporary_folder.h"
#include "virtio/block/medium.h"

using namespace mayfly;
using namespace mayfly::virtio::block;

namespace {

void require_no_disk(const std::string& path, const std::string& words, bool read_only = false) {
  const auto file = File::open(path, read_only);
  REQUIRE_FALSE(file);
  CHECK_THAT(file.error().message, Catch::Contains(words) && Catch::Contains(path));
  CHECK(file.error().message.find('\n') == std::string::npos);
}

std::int64_t transfer(File& file, Call::Kind kind, std::string& text, std::uint64_t offset) {
  const iovec piece{.iov_base = text.data(), .iov_len = text.size()};
  return file.perform({.kind = kind, .pieces = std::span(&piece, 1), .offset = offset});
}

std::int64_t on_range(File& file, Call::Kind kind, std::uint64_t offset, std::uint64_t length) {
  return file.perform({.kind = kind, .offset = offset, .length = length});
}

std::uint64_t blocks_of(const std::string& path) {
  struct stat what {};
  REQUIRE(::stat(path.c_str(), &what) == 0);
  return static_cast<std::uint64_t>(what.st_blocks);
}

}  // namespace

TEST_CASE("a file is read, written and flushed") {
  const test::TemporaryFolder folder;
  const auto file = File::open(folder.file("disk", std::string(2048, 'a')), false).value();
  CHECK(file->size().value() == 2048);
  CHECK_FALSE(file->is_block_device());
  std::string text(512, 'b');
  CHECK(transfer(*file, Call::Kind::kWrite, text, 512) == 512);
  CHECK(file->perform({.kind = Call::Kind::kSync}) == 0);
  std::string out(1536, '\0');
  CHECK(transfer(*file, Call::Kind::kRead, out, 0) == 1536);
  CHECK(out == std::string(512, 'a') + text + std::string(512, 'a'));
  CHECK(transfer(*file, Call::Kind::kRead, out, 2048) == 0);
}

TEST_CASE("a file waits, whatever it was opened with") {
  const test::TemporaryFolder folder;
  const auto file = File::open(folder.file("disk", std::string(512, 'a')), false).value();
  CHECK((::fcntl(file->fd(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK((::fcntl(file->fd(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("a file grows and shrinks under us") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(2048, 'a'));
  const auto file = File::open(path, true).value();
  REQUIRE(::truncate(path.c_str(), 512) == 0);
  CHECK(file->size().value() == 512);
  std::string out(1024, '\0');
  CHECK(transfer(*file, Call::Kind::kRead, out, 0) == 512);
  REQUIRE(::truncate(path.c_str(), 4096) == 0);
  CHECK(file->size().value() == 4096);
}

TEST_CASE("a file's holes") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(1 << 20, 'a'));
  const auto file = File::open(path, false).value();
  if (!file->geometry().discards) return;  // a file system without holes
  REQUIRE(file->perform({.kind = Call::Kind::kSync}) == 0);
  const auto before = blocks_of(path);
  CHECK(on_range(*file, Call::Kind::kDiscard, 0, 256 << 10) == 0);
  CHECK(on_range(*file, Call::Kind::kPunch, 256 << 10, 256 << 10) == 0);
  CHECK(blocks_of(path) <= before / 2 + 16);
  CHECK(file->size().value() == 1 << 20);
  std::string out(1 << 20, 'x');
  CHECK(transfer(*file, Call::Kind::kRead, out, 0) == 1 << 20);
  CHECK(out == std::string(512 << 10, '\0') + std::string(512 << 10, 'a'));
  if (const auto zeroed = on_range(*file, Call::Kind::kZero, 512 << 10, 4096); zeroed != -EOPNOTSUPP) {
    CHECK(zeroed == 0);
    CHECK(transfer(*file, Call::Kind::kRead, out, 512 << 10) == 512 << 10);
    CHECK(out.substr(0, 4097) == std::string(4096, '\0') + 'a');
  }
}

TEST_CASE("looking at a file changes nothing of it") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(8192, 'a'));
  const auto before = blocks_of(path);
  const auto file = File::open(path, false).value();
  CHECK(file->size().value() == 8192);
  CHECK(blocks_of(path) == before);
  CHECK(file->geometry().physical_block >= 512);
  CHECK(file->geometry().discard_block >= 512);
}

TEST_CASE("a read-only disk cannot be written, whoever asks") {
  const test::TemporaryFolder folder;
  const auto file = File::open(folder.file("disk", std::string(512, 'a')), true).value();
  CHECK_FALSE(file->geometry().discards);
  std::string text(512, 'b');
  CHECK(transfer(*file, Call::Kind::kWrite, text, 0) == -EBADF);
  CHECK(on_range(*file, Call::Kind::kPunch, 0, 512) == -EBADF);
}

TEST_CASE("what is no disk: missing") {
  const test::TemporaryFolder folder;
  require_no_disk(folder.path("nothing"), "No such file");
}

TEST_CASE("what is no disk: a folder") {
  const test::TemporaryFolder folder;
  require_no_disk(folder.path(""), "is a folder", false);
  require_no_disk(folder.path(""), "is a folder", true);
}

TEST_CASE("what is no disk: empty") {
  const test::TemporaryFolder folder;
  require_no_disk(folder.file("empty", ""), "is empty");
}

TEST_CASE("what is no disk: not whole sectors") {
  const test::TemporaryFolder folder;
  require_no_disk(folder.file("odd", std::string(1000, 'x')), "1000 bytes");
}

TEST_CASE("what is no disk: a FIFO or a device that is not a disk") {
  const test::TemporaryFolder folder;
  REQUIRE(::mkfifo(folder.path("fifo").c_str(), 0600) == 0);
  require_no_disk(folder.path("fifo"), "neither a regular file nor a block device", false);
  require_no_disk(folder.path("fifo"), "neither a regular file nor a block device", true);
  require_no_disk("/dev/null", "neither a regular file nor a block device");
}

TEST_CASE("what is no disk: one without permission") {
  if (::geteuid() == 0) return;  // root may do everything
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(512, 'a'));
  REQUIRE(::chmod(path.c_str(), 0400) == 0);
  require_no_disk(path, "Permission denied", false);
  CHECK(File::open(path, true));
  REQUIRE(::chmod(path.c_str(), 0000) == 0);
  require_no_disk(path, "Permission denied", true);
}
