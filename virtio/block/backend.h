// Where a block device's bytes are.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace mayfly::virtio::block {

using Spans = std::span<const std::span<std::byte>>;

// A disk. Used under the device's mutex; every call waits until the work is done. Spans are guest memory,
// whose bytes may change meanwhile.
class Backend {
 public:
  virtual ~Backend() = default;

  // Bytes now; an error when it cannot be told or is not a size a disk may have.
  virtual base::Result<std::uint64_t> size() = 0;
  // Fills all of `spans` from `offset`, or fails (Error::code: errno, or 0 where the disk ended early) with
  // the spans in part filled.
  virtual base::Status read(Spans spans, std::uint64_t offset) = 0;
  // Writes all of `spans` at `offset`, or fails with a part written.
  virtual base::Status write(Spans spans, std::uint64_t offset) = 0;
  // What was written before is on stable storage when it returns.
  virtual base::Status flush() = 0;
};

// Opens the disk at `path`.
using BackendOpener =
    std::function<base::Result<std::unique_ptr<Backend>>(const std::string& path, bool read_only)>;

// A regular file or a block device by preadv(2) and pwritev(2). Each error names the path: it is missing, may
// not be opened, is of another kind, is empty, or is not a multiple of 512 bytes long.
base::Result<std::unique_ptr<Backend>> open_file_backend(const std::string& path, bool read_only);

// Transfers all of `spans` by as many calls as it takes: at most IOV_MAX pieces each, going on after a short
// transfer, repeated after EINTR. `call` is preadv or pwritev on some file: bytes moved, or -1 and errno.
// No progress (a call that returns 0) is an error with code 0.
using VectorCall = std::function<ssize_t(std::span<const iovec> pieces, std::uint64_t offset)>;
base::Status transfer_all(Spans spans, std::uint64_t offset, const VectorCall& call);

}  // namespace mayfly::virtio::block
