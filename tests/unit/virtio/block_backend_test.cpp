// Files as disks, and transfers in pieces.
#include <catch2/catch.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <vector>

#include "tests/support/temporary_folder.h"
#include "virtio/block/backend.h"

using namespace mayfly;
using namespace mayfly::virtio::block;

namespace {

using Bytes = std::vector<std::byte>;

Bytes counted(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 256);
  return bytes;
}

std::vector<std::span<std::byte>> cut(Bytes& bytes, std::size_t piece) {
  std::vector<std::span<std::byte>> spans;
  for (std::size_t at = 0; at < bytes.size(); at += piece) {
    spans.push_back(std::span(bytes).subspan(at, std::min(piece, bytes.size() - at)));
  }
  return spans;
}

// Reads from `disk`, at most `most` bytes a call.
VectorCall reader_of(const Bytes& disk, std::size_t most) {
  return [&disk, most](std::span<const iovec> pieces, std::uint64_t offset) -> ssize_t {
    std::size_t moved = 0;
    for (const iovec& piece : pieces) {
      const std::size_t n = std::min({piece.iov_len, most - moved, disk.size() - (offset + moved)});
      std::memcpy(piece.iov_base, disk.data() + offset + moved, n);
      moved += n;
      if (n < piece.iov_len) break;
    }
    return static_cast<ssize_t>(moved);
  };
}

void require_no_disk(const std::string& path, const std::string& words, bool read_only = false) {
  const auto backend = open_file_backend(path, read_only);
  REQUIRE_FALSE(backend);
  CHECK_THAT(backend.error().message, Catch::Contains(words) && Catch::Contains(path));
  CHECK(backend.error().message.find('\n') == std::string::npos);
}

}  // namespace

TEST_CASE("a transfer in one call") {
  const Bytes disk = counted(4096);
  Bytes out(2048);
  REQUIRE(transfer_all(cut(out, 512), 1024, reader_of(disk, 1 << 20)));
  CHECK(std::equal(out.begin(), out.end(), disk.begin() + 1024));
}

TEST_CASE("short transfers are gone on with, wherever they end") {
  const Bytes disk = counted(4096);
  for (const std::size_t most : {1U, 7U, 511U, 512U, 513U, 1000U}) {
    Bytes out(3000);
    REQUIRE(transfer_all(cut(out, 512), 96, reader_of(disk, most)));
    CHECK(std::equal(out.begin(), out.end(), disk.begin() + 96));
  }
}

TEST_CASE("an interrupted call is repeated") {
  const Bytes disk = counted(512);
  Bytes out(512);
  int left = 3;
  const VectorCall real = reader_of(disk, 100);
  const auto call = [&](std::span<const iovec> pieces, std::uint64_t offset) -> ssize_t {
    if (left-- > 0) {
      errno = EINTR;
      return -1;
    }
    return real(pieces, offset);
  };
  REQUIRE(transfer_all(cut(out, 512), 0, call));
  CHECK(out == disk);
}

TEST_CASE("more pieces than one call takes") {
  const Bytes disk = counted(3 * IOV_MAX);
  Bytes out(disk.size());
  std::size_t largest = 0;
  const VectorCall real = reader_of(disk, 1 << 20);
  const auto call = [&](std::span<const iovec> pieces, std::uint64_t offset) {
    largest = std::max(largest, pieces.size());
    return real(pieces, offset);
  };
  REQUIRE(transfer_all(cut(out, 1), 0, call));
  CHECK(out == disk);
  CHECK(largest == IOV_MAX);
}

TEST_CASE("a transfer that fails half way, and one that stops") {
  Bytes out(1024);
  const auto failing = [](std::span<const iovec>, std::uint64_t offset) -> ssize_t {
    if (offset == 0) return 512;
    errno = EIO;
    return -1;
  };
  auto failed = transfer_all(cut(out, 512), 0, failing);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == EIO);

  const auto stopping = [](std::span<const iovec>, std::uint64_t offset) -> ssize_t {
    return offset == 0 ? 100 : 0;
  };
  failed = transfer_all(cut(out, 512), 0, stopping);
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == 0);
}

TEST_CASE("a transfer of nothing calls nothing") {
  const auto never = [](std::span<const iovec>, std::uint64_t) -> ssize_t {
    FAIL("called");
    return -1;
  };
  CHECK(transfer_all({}, 0, never));
  const std::vector<std::span<std::byte>> empty(3);
  CHECK(transfer_all(empty, 0, never));
}

TEST_CASE("a file is read, written and flushed") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(2048, 'a'));
  auto backend = open_file_backend(path, false);
  REQUIRE(backend);
  CHECK((*backend)->size().value() == 2048);
  Bytes in(512, std::byte{'b'});
  REQUIRE((*backend)->write(cut(in, 100), 512));
  REQUIRE((*backend)->flush());
  Bytes out(1536);
  REQUIRE((*backend)->read(cut(out, 200), 0));
  CHECK(out[511] == std::byte{'a'});
  CHECK(out[512] == std::byte{'b'});
  CHECK(out[1023] == std::byte{'b'});
  CHECK(out[1024] == std::byte{'a'});
}

TEST_CASE("a file that shrank fails the read, and grows again") {
  const test::TemporaryFolder folder;
  const std::string path = folder.file("disk", std::string(2048, 'a'));
  auto backend = open_file_backend(path, true);
  REQUIRE(backend);
  REQUIRE(::truncate(path.c_str(), 512) == 0);
  Bytes out(1024);
  const auto read = (*backend)->read(cut(out, 1024), 0);
  REQUIRE_FALSE(read);
  CHECK(read.error().code == 0);
  CHECK((*backend)->size().value() == 512);
  REQUIRE(::truncate(path.c_str(), 4096) == 0);
  CHECK((*backend)->size().value() == 4096);
  CHECK((*backend)->read(cut(out, 1024), 0));
}

TEST_CASE("a read-only disk cannot be written, whoever asks") {
  const test::TemporaryFolder folder;
  auto backend = open_file_backend(folder.file("disk", std::string(512, 'a')), true);
  REQUIRE(backend);
  Bytes in(512);
  CHECK_FALSE((*backend)->write(cut(in, 512), 0));
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
  CHECK(open_file_backend(path, true));
  REQUIRE(::chmod(path.c_str(), 0000) == 0);
  require_no_disk(path, "Permission denied", true);
}
