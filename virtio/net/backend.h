// Where a network device's frames come from and go to.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::virtio::net {

// A network. Used under the device's mutex; no call waits. Pieces are guest memory for the most part, whose
// bytes may change meanwhile; the first ones hold a packet.h Header.
class Backend {
 public:
  // Bytes, or the errno of what went wrong.
  using Moved = std::expected<std::size_t, int>;

  virtual ~Backend() = default;

  // What to watch: EPOLLIN when there is a frame to read, EPOLLOUT when one can be written (level-triggered),
  // EPOLLERR or EPOLLHUP when the network is gone for good. The same for life.
  [[nodiscard]] virtual int fd() const = 0;
  // The offload bits of section 5.1.3 that may be offered to a driver: *CSUM, *TSO*, *ECN, *UFO.
  [[nodiscard]] virtual std::uint64_t offloads() const = 0;
  // From now on frames to read are as a driver with these features takes them. What was queued before may not
  // be.
  virtual base::Status set_features(std::uint64_t features) = 0;
  // One header and frame; what does not fit is lost, without a sign of it. EAGAIN: none is there. EINVAL: a
  // frame was lost. Others: the network is gone.
  virtual Moved read(std::span<const iovec> pieces) = 0;
  // One header and frame, whole. EAGAIN: not now. EIO: the network is down, and EPOLLOUT tells when it is up
  // again. EBADF, EBADFD, ENODEV, ENXIO: it is gone. Others: this frame cannot be sent.
  virtual Moved write(std::span<const iovec> pieces) = 0;

  // Whether part of a frame that write() took is still here. EPOLLOUT tells when flush() gets on with it,
  // whose errors are those of write().
  [[nodiscard]] virtual bool unsent() const { return false; }
  virtual std::expected<void, int> flush() { return {}; }
};

// Opens the network called `name`.
using BackendOpener = std::function<base::Result<std::unique_ptr<Backend>>(const std::string& name)>;

// Whether there can be a tap of that name, or it is /dev/fd/N. Pure.
base::Status check_tap_name(const std::string& name);

// A tap interface of the network namespace that the caller is in, by readv(2) and writev(2). It must exist.
// With /dev/fd/N instead, that descriptor of a tap, which may be in any: attached by TUNSETIFF with IFF_TAP |
// IFF_NO_PI | IFF_VNET_HDR. Each error names the tap, what is wrong and what to do about it.
base::Result<std::unique_ptr<Backend>> open_tap(const std::string& name);

// What listens at the unix stream socket `path`: frames go both ways, each behind its length as four bytes,
// big-endian, as passt has it. There are no offloads. The network is gone when the other side closes the
// stream, or sends a length that no frame has.
base::Result<std::unique_ptr<Backend>> open_stream(const std::string& path);
// The same on a stream that is connected.
std::unique_ptr<Backend> adopt_stream(base::UniqueFd socket);

}  // namespace mayfly::virtio::net
