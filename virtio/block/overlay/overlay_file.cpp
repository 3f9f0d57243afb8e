#include "virtio/block/overlay/overlay_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/draft.h"
#include "base/file.h"
#include "base/log.h"
#include "virtio/block/request.h"

namespace mayfly::virtio::block::overlay {

using base::Draft;
using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

namespace fs = std::filesystem;

// ---- The base ----

// Sixteen samples from the first byte to the last: where file systems keep what changes with each mount, and
// a bit of everything else.
Result<std::uint64_t> fingerprint(int fd, std::uint64_t size) {
  constexpr std::uint64_t kSamples = 16;
  std::array<std::byte, 4096> buffer;
  const auto sample = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size));
  std::uint64_t sum = kHashStart;
  for (std::uint64_t i = 0; i < kSamples; ++i) {
    const std::uint64_t at = (size - sample.size()) / (kSamples - 1) * i;
    TRY(base::read_exactly_at(fd, sample, i + 1 < kSamples ? at : size - sample.size()));
    sum = hash(sample, sum);
  }
  return sum;
}

struct Base {
  std::unique_ptr<File> file;
  BaseIdentity identity;
};

Result<Base> open_base(const std::string& path) {
  Base base{.file = TRY(File::open(path, /*read_only=*/true)), .identity = {}};
  const int fd = base.file->fd();
  struct stat what {};
  if (::fstat(fd, &what) < 0) return fail_errno(errno, "look at {}", path);
  base.identity.size = TRY(base.file->size());
  if (!base.file->is_block_device()) {
    base.identity.modified_seconds = static_cast<std::uint64_t>(what.st_mtim.tv_sec);
    base.identity.modified_nanoseconds = static_cast<std::uint32_t>(what.st_mtim.tv_nsec);
  }
  std::array<std::byte, kSectorSize> start;
  TRY(base::read_exactly_at(fd, start, 0));
  if (has_magic(start)) {
    return fail(
        "{} is an overlay itself, and cannot be the base of another: make an image of it first, with "
        "\"mayfly drive flatten\"",
        path);
  }
  auto sum = fingerprint(fd, base.identity.size);
  if (!sum) return fail_because(std::move(sum).error(), "{}", path);
  base.identity.fingerprint = *sum;
  return base;
}

// In the words that `touch -d` takes, which keep every digit.
std::string when(const BaseIdentity& base) {
  return fmt::format("@{}.{:09}", static_cast<std::int64_t>(base.modified_seconds),
                     base.modified_nanoseconds);
}

Status same_base(const BaseIdentity& then, const BaseIdentity& now, const std::string& path) {
  constexpr const char* kRemedy =
      "give the drive the base it was made for, or another overlay; what was written cannot be put on "
      "another "
      "base";
  if (then.size != now.size) {
    return fail("its base had {} bytes, and {} has {}: {}", then.size, path, now.size, kRemedy);
  }
  if (then.fingerprint != now.fingerprint) {
    return fail("the content of {} is not that of the base it was made for: {}", path, kRemedy);
  }
  if (then.modified_seconds != now.modified_seconds ||
      then.modified_nanoseconds != now.modified_nanoseconds) {
    return fail(
        "its base was last modified at {}, and {} was at {}: {}; a copy that has the same content is taken "
        "after touch -d {} {}",
        when(then), path, when(now), kRemedy, when(then), path);
  }
  return {};
}

// ---- The overlay file ----

enum class Lock : std::uint8_t { kToWrite, kToRead, kNone };

// Held as long as the file is open: by the open file, not the process, so that two drives of one VM exclude
// each other, too.
Status take_lock(const File& file, const std::string& path, Lock how) {
  if (how == Lock::kNone) return {};
  struct flock whole {};
  whole.l_type = how == Lock::kToWrite ? F_WRLCK : F_RDLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file.fd(), F_OFD_SETLK, &whole) == 0) return {};
  if (errno == EAGAIN || errno == EACCES) {
    return fail(
        "the overlay {} is in use by another drive, VM or mayfly drive: give each drive an overlay of its "
        "own, or wait until it is free",
        path);
  }
  return fail_errno(errno, "lock the overlay {}", path);
}

Result<bool> is_locked(const File& file, const std::string& path) {
  struct flock whole {};
  whole.l_type = F_RDLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(file.fd(), F_OFD_GETLK, &whole) < 0) return fail_errno(errno, "look for locks of {}", path);
  return whole.l_type == F_WRLCK;
}

struct Opened {
  std::unique_ptr<File> file;
  struct stat what {};
  Contents contents;
};

Result<Opened> open_file(const std::string& path, Lock how) {
  struct stat what {};
  if (::stat(path.c_str(), &what) < 0) return fail_errno(errno, "open the overlay {}", path);
  const char* const remedy = how == Lock::kToWrite ? "give another path, or remove it to begin anew"
                                                   : "give the path of an overlay that is whole";
  if (!S_ISREG(what.st_mode)) return fail("{} is no regular file, so it is no overlay: {}", path, remedy);
  const auto size = static_cast<std::uint64_t>(what.st_size);
  if (size < kHeaderSize || size % kSectorSize != 0) {
    return fail("{} is no overlay, or what is left of one: it has {} bytes; {}", path, size, remedy);
  }
  auto file = File::open(path, how != Lock::kToWrite);
  if (!file) return fail_because(std::move(file).error(), "overlay");
  TRY(take_lock(**file, path, how));
  if (::fstat((*file)->fd(), &what) < 0) return fail_errno(errno, "look at {}", path);
  auto contents = read_contents(**file);
  if (!contents) return fail("overlay {}: {}; {}", path, contents.error().message, remedy);
  return Opened{.file = std::move(*file), .what = what, .contents = std::move(*contents)};
}

// The base at `path`, if it is the one that the overlay was made for.
Result<Base> open_base_of(const Opened& overlay, const std::string& path) {
  Base base = TRY(open_base(path));
  struct stat what {};
  if (::fstat(base.file->fd(), &what) < 0) return fail_errno(errno, "look at {}", path);
  if (what.st_dev == overlay.what.st_dev && what.st_ino == overlay.what.st_ino) {
    return fail("{} would be its own base", path);
  }
  TRY(same_base(overlay.contents.description.base, base.identity, path));
  return base;
}

Result<std::unique_ptr<Overlay>> open_existing(const std::string& path, const std::string& base_path,
                                               Lock how) {
  Opened opened = TRY(open_file(path, how));
  auto base = open_base_of(opened, base_path.empty() ? opened.contents.description.base_path : base_path);
  if (!base) return fail_because(std::move(base).error(), "overlay {}", path);
  return Overlay::open(std::move(opened.file), std::move(opened.contents), std::move(base->file),
                       how != Lock::kToWrite);
}

// ---- A new one ----

Status sync_folder_of(const std::string& path) {
  const std::string folder = fs::path(path).parent_path();
  const UniqueFd fd = TRY(base::open_file(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY));
  // EINVAL: a file system that has no such thing.
  if (::fsync(fd.get()) < 0 && errno != EINVAL) return fail_errno(errno, "write the folder of {}", path);
  return {};
}

Status write_draft(const Draft& draft, const Description& description) {
  if (::ftruncate(draft.fd(), static_cast<off_t>(description.file_size())) < 0) {
    return fail_errno(errno, "make it {} bytes long", description.file_size());
  }
  // The map's space, so that a flush does not need any.
  const auto reserved = static_cast<off_t>(kMapOffset + description.map_size());
  if (::fallocate(draft.fd(), 0, 0, reserved) < 0 && errno != EOPNOTSUPP && errno != ENOSYS) {
    return fail_errno(errno, "reserve {} bytes", reserved);
  }
  const HeaderBytes header = encode(description);
  TRY(base::write_all(draft.fd(), header));
  return {};
}

std::string absolute(const std::string& path) {
  std::error_code error;
  const fs::path found = fs::canonical(path, error);
  return error ? path : found.string();
}

Status create(const std::string& path, const std::string& base_path, const BaseIdentity& base,
              std::uint32_t cluster_size) {
  const Description description{
      .cluster_size = cluster_size != 0 ? cluster_size : default_cluster_size(base.size),
      .base = base,
      .base_path = absolute(base_path)};
  if (auto checked = check(description); !checked) {
    return fail_because(std::move(checked).error(), "make the overlay {}", path);
  }
  const auto make = [&]() -> Status {
    Draft draft = TRY(Draft::create(path));
    TRY(write_draft(draft, description));
    return draft.publish(Draft::Over::kNothing);
  };
  if (auto made = make(); !made) {
    return fail_because(std::move(made).error(), "make the overlay {}", path);
  }
  return sync_folder_of(path);
}

}  // namespace

Result<std::unique_ptr<Overlay>> open_overlay(const std::string& path, const std::string& base) {
  struct stat what {};
  if (::lstat(path.c_str(), &what) < 0 && errno == ENOENT) {
    const BaseIdentity identity = TRY(open_base(base)).identity;
    const auto created = create(path, base, identity, 0);
    // Somebody else made it just now: then it is theirs to hold.
    if (!created && created.error().code != EEXIST) return std::unexpected(created.error());
  }
  auto overlay = TRY(open_existing(path, base, Lock::kToWrite));
  if (!overlay->was_clean()) {
    base::log::warning("the overlay {} was not closed: what was written since its last flush may be missing",
                       path);
  }
  return overlay;
}

Result<std::unique_ptr<Overlay>> open_overlay_to_read(const std::string& path, const std::string& base) {
  return open_existing(path, base, Lock::kToRead);
}

Status create_overlay(const std::string& path, const std::string& base, std::uint32_t cluster_size) {
  struct stat what {};
  if (::lstat(path.c_str(), &what) == 0) {
    return fail("{} exists already: give another path, or remove it first", path);
  }
  return create(path, base, TRY(open_base(base)).identity, cluster_size);
}

Result<Summary> inspect_overlay(const std::string& path, const std::string& base_path) {
  Opened opened = TRY(open_file(path, Lock::kNone));
  Summary summary;
  summary.clusters = opened.contents.map.count();
  summary.disk_bytes = static_cast<std::uint64_t>(opened.what.st_blocks) * kSectorSize;
  summary.in_use = TRY(is_locked(*opened.file, path));
  summary.clean = !summary.in_use && !opened.contents.in_use;
  summary.base_path = base_path.empty() ? opened.contents.description.base_path : base_path;
  if (auto base = open_base_of(opened, summary.base_path); !base) {
    summary.base_state = std::unexpected(std::move(base).error());
  }
  summary.description = std::move(opened.contents.description);
  return summary;
}

}  // namespace mayfly::virtio::block::overlay
