#include "virtio/block/backend.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "virtio/block/request.h"

namespace mayfly::virtio::block {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

class FileBackend final : public Backend {
 public:
  FileBackend(base::UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  Result<std::uint64_t> size() override {
    struct stat what {};
    if (::fstat(fd_.get(), &what) < 0) return fail_errno(errno, "look at {}", path_);
    if (S_ISDIR(what.st_mode)) return fail("{} is a folder, not a disk image", path_);
    if (!S_ISREG(what.st_mode) && !S_ISBLK(what.st_mode)) {
      return fail("{} is neither a regular file nor a block device", path_);
    }
    // stat(2) has no size for a block device; its end is where it ends.
    const off_t end = ::lseek(fd_.get(), 0, SEEK_END);
    if (end < 0) return fail_errno(errno, "find the end of {}", path_);
    const auto bytes = static_cast<std::uint64_t>(end);
    if (bytes == 0) return fail("{} is empty, not a disk image", path_);
    if (bytes % kSectorSize != 0) {
      return fail("{} has {} bytes, which is not a multiple of {}", path_, bytes, kSectorSize);
    }
    return bytes;
  }

  Status read(Spans spans, std::uint64_t offset) override {
    return transfer_all(spans, offset, [this](std::span<const iovec> pieces, std::uint64_t at) {
      return ::preadv(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), static_cast<off_t>(at));
    });
  }

  Status write(Spans spans, std::uint64_t offset) override {
    return transfer_all(spans, offset, [this](std::span<const iovec> pieces, std::uint64_t at) {
      return ::pwritev(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), static_cast<off_t>(at));
    });
  }

  Status flush() override {
    if (::fdatasync(fd_.get()) < 0) return fail_errno(errno, "write {} to stable storage", path_);
    return {};
  }

 private:
  base::UniqueFd fd_;
  std::string path_;
};

}  // namespace

Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path, bool read_only) {
  struct stat what {};
  // Before the open: a folder cannot be opened for writing, which would hide the real mistake.
  if (::stat(path.c_str(), &what) == 0 && S_ISDIR(what.st_mode)) {
    return fail("{} is a folder, not a disk image", path);
  }
  // O_NONBLOCK: a FIFO must not keep us waiting for its other end. It means nothing to files and disks.
  const int access = read_only ? O_RDONLY : O_RDWR;
  auto fd = base::open_file(path, access | O_NONBLOCK | O_NOCTTY);
  if (!fd && !read_only &&
      (fd.error().code == EACCES || fd.error().code == EROFS || fd.error().code == EPERM)) {
    return fail_because(std::move(fd).error(), "the disk is not read-only and cannot be written");
  }
  auto backend = std::make_unique<FileBackend>(TRY(std::move(fd)), path);
  TRY(backend->size());
  return backend;
}

Status transfer_all(Spans spans, std::uint64_t offset, const VectorCall& call) {
  std::vector<iovec> pieces;
  pieces.reserve(spans.size());
  for (const auto& span : spans) {
    if (!span.empty()) pieces.push_back({.iov_base = span.data(), .iov_len = span.size()});
  }
  std::span<iovec> left(pieces);
  while (!left.empty()) {
    const ssize_t n = call(left.first(std::min<std::size_t>(left.size(), IOV_MAX)), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "transfer at offset {}", offset);
    if (n == 0) return fail("the disk ends at offset {}", offset);
    offset += static_cast<std::uint64_t>(n);
    for (auto moved = static_cast<std::size_t>(n); moved > 0;) {
      iovec& front = left.front();
      const std::size_t part = std::min(moved, front.iov_len);
      front.iov_base = static_cast<std::byte*>(front.iov_base) + part;
      front.iov_len -= part;
      moved -= part;
      if (front.iov_len == 0) left = left.subspan(1);
    }
  }
  return {};
}

}  // namespace mayfly::virtio::block
