#include "virtio/block/medium.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>

#include "base/file.h"
#include "virtio/block/request.h"

namespace mayfly::virtio::block {

using base::fail;
using base::fail_errno;
using base::Result;

Result<std::unique_ptr<File>> File::open(const std::string& path, bool read_only) {
  struct stat what {};
  // Before the open: a folder cannot be opened for writing, which would hide the real mistake.
  if (::stat(path.c_str(), &what) == 0 && S_ISDIR(what.st_mode)) {
    return fail("{} is a folder, not a disk image", path);
  }
  // O_NONBLOCK: a FIFO must not keep us waiting for its other end.
  const int access = read_only ? O_RDONLY : O_RDWR;
  auto fd = base::open_file(path, access | O_NONBLOCK | O_NOCTTY);
  if (!fd && !read_only &&
      (fd.error().code == EACCES || fd.error().code == EROFS || fd.error().code == EPERM)) {
    return fail_because(std::move(fd).error(), "the disk is not read-only and cannot be written");
  }
  if (!fd) return std::unexpected(std::move(fd).error());
  std::unique_ptr<File> file(new File(std::move(*fd), path));
  const std::uint64_t size = TRY(file->size());
  if (::fstat(file->fd(), &what) < 0) return fail_errno(errno, "look at {}", path);
  // It means nothing to preadv on a file or a disk, but io_uring would fail with EAGAIN instead of waiting.
  if (::fcntl(file->fd(), F_SETFL, 0) < 0) return fail_errno(errno, "set the flags of {}", path);
  file->is_block_device_ = S_ISBLK(what.st_mode);
  if (file->is_block_device_) {
    file->look_at_block_device();
  } else {
    file->look_at_file(what, size);
  }
  if (read_only) file->geometry_.discards = false;
  return file;
}

Result<std::uint64_t> File::size() {
  struct stat what {};
  if (::fstat(fd(), &what) < 0) return fail_errno(errno, "look at {}", path_);
  if (S_ISDIR(what.st_mode)) return fail("{} is a folder, not a disk image", path_);
  if (!S_ISREG(what.st_mode) && !S_ISBLK(what.st_mode)) {
    return fail("{} is neither a regular file nor a block device", path_);
  }
  auto bytes = static_cast<std::uint64_t>(what.st_size);
  // stat(2) has no size for a block device.
  if (S_ISBLK(what.st_mode) && ::ioctl(fd(), BLKGETSIZE64, &bytes) < 0) {
    return fail_errno(errno, "ask for the size of {}", path_);
  }
  if (bytes == 0) return fail("{} is empty, not a disk image", path_);
  if (bytes % kSectorSize != 0) {
    return fail("{} has {} bytes, which is not a multiple of {}", path_, bytes, kSectorSize);
  }
  return bytes;
}

void File::look_at_file(const struct stat& what, std::uint64_t size) {
  const auto block = static_cast<std::uint64_t>(what.st_blksize);
  // Some file systems put their favourite transfer size there, which is no block size.
  constexpr std::uint64_t kLargestBlock = 65536;
  if (std::has_single_bit(block) && block >= kSectorSize && block <= kLargestBlock) {
    geometry_.physical_block = geometry_.least_io = geometry_.discard_block =
        static_cast<std::uint32_t>(block);
  }
  // Past the end, where there is nothing to lose: only the answer matters.
  const Call probe = {.kind = Call::Kind::kPunch, .offset = size, .length = kSectorSize};
  geometry_.discards = perform(probe) == 0;
}

void File::look_at_block_device() {
  unsigned value = 0;
  if (::ioctl(fd(), BLKPBSZGET, &value) == 0 && std::has_single_bit(value) && value >= kSectorSize) {
    geometry_.physical_block = value;
  }
  if (::ioctl(fd(), BLKIOMIN, &value) == 0) geometry_.least_io = value;
  if (::ioctl(fd(), BLKIOOPT, &value) == 0) geometry_.best_io = value;
  int logical = 0;
  if (::ioctl(fd(), BLKSSZGET, &logical) == 0 && logical > 0 &&
      logical % static_cast<int>(kSectorSize) == 0) {
    geometry_.discard_block = static_cast<std::uint32_t>(logical);
  }
  // A range that no disk takes: one that cannot discard says EOPNOTSUPP before it looks at it.
  std::array<std::uint64_t, 2> misaligned = {1, kSectorSize};
  geometry_.discards = ::ioctl(fd(), BLKDISCARD, misaligned.data()) < 0 && errno == EINVAL;
}

std::int64_t File::perform(const Call& call) {
  const auto at = static_cast<off_t>(call.offset);
  const auto length = static_cast<off_t>(call.length);
  const int count = static_cast<int>(call.pieces.size());
  std::int64_t result = 0;
  switch (call.kind) {
    case Call::Kind::kRead:
      result = ::preadv2(fd(), call.pieces.data(), count, at, 0);
      break;
    case Call::Kind::kWrite:
      result = ::pwritev2(fd(), call.pieces.data(), count, at, 0);
      break;
    case Call::Kind::kSync:
      result = ::fdatasync(fd());
      break;
    case Call::Kind::kDiscard:
      if (is_block_device_) {
        std::array<std::uint64_t, 2> range = {call.offset, call.length};
        result = ::ioctl(fd(), BLKDISCARD, range.data());
        break;
      }
      [[fallthrough]];
    case Call::Kind::kPunch:
      // On a block device, too, these two are BLKZEROOUT with and without leave to unmap.
      result = ::fallocate(fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length);
      break;
    case Call::Kind::kZero:
      result = ::fallocate(fd(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length);
      break;
  }
  return result < 0 ? -errno : result;
}

}  // namespace mayfly::virtio::block
