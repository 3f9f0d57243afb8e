// Where a block device's bytes are, a system call at a time. The seam below the engines: tests put a disk
// here that fails.
#pragma once

#include <sys/stat.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::virtio::block {

// One call on the disk.
struct Call {
  enum class Kind : std::uint8_t {
    kRead,     // preadv2
    kWrite,    // pwritev2
    kSync,     // fdatasync
    kDiscard,  // the range's content is of no use any more; it may take no space
    kPunch,    // the range reads as zero and takes no space
    kZero,     // the range reads as zero and keeps its space
  };
  Kind kind = Kind::kRead;
  std::span<const iovec> pieces = {};  // kRead and kWrite: 1 to IOV_MAX, none empty
  std::uint64_t offset = 0;            // bytes; not kSync
  std::uint64_t length = 0;            // bytes, > 0; the last three kinds
};

// What a guest is told of a disk, for speed. Bytes.
struct Geometry {
  std::uint32_t physical_block = 512;  // a power of two >= 512
  std::uint32_t least_io = 0;          // the smallest that costs no read-modify-write; 0: not known
  std::uint32_t best_io = 0;           // 0: not known
  bool discards = false;               // kDiscard frees space
  std::uint32_t discard_block = 512;   // kDiscard takes multiples of it only; a multiple of 512
};

class Medium {
 public:
  virtual ~Medium() = default;
  // Bytes now; an error when it cannot be told or is not a size a disk may have.
  virtual base::Result<std::uint64_t> size() = 0;
  [[nodiscard]] virtual Geometry geometry() const = 0;
  // Bytes moved (0 for the kinds that move none), or -errno. Any thread.
  virtual std::int64_t perform(const Call& call) = 0;
};

// A regular file or a block device.
class File final : public Medium {
 public:
  // Each error names the path: it is missing, may not be opened, is of another kind, is empty, or is not a
  // multiple of 512 bytes long.
  static base::Result<std::unique_ptr<File>> open(const std::string& path, bool read_only);
  base::Result<std::uint64_t> size() override;
  [[nodiscard]] Geometry geometry() const override { return geometry_; }
  std::int64_t perform(const Call& call) override;

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool is_block_device() const { return is_block_device_; }

 private:
  File(base::UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  void look_at_file(const struct stat& what, std::uint64_t size);
  void look_at_block_device();

  base::UniqueFd fd_;
  std::string path_;
  bool is_block_device_ = false;
  Geometry geometry_;
};

}  // namespace mayfly::virtio::block
