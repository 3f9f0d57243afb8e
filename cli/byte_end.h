// One end of a stream of bytes, whatever it is made of, read and written without ever waiting.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

// A descriptor that mayfly was started with is shared with other programs: the shell, the next command of a
// pipeline. O_NONBLOCK belongs to the open file and would change it for all of them, so it is never set
// there. Instead: a pipe or terminal is opened a second time, a socket is asked call by call, and a file or a
// device that never waits is used as it is.
class ByteEnd {
 public:
  enum class Direction : std::uint8_t { kRead, kWrite };
  enum class State : std::uint8_t {
    kBytes,   // `count` bytes (> 0) were moved
    kWait,    // nothing now; epoll will tell
    kLater,   // a terminal that is not ours at the moment: ask again in a while
    kEnd,     // end of file when reading; nobody reads any more when writing
    kFailed,  // `error`
  };
  struct Outcome {
    State state;
    std::size_t count = 0;
    int error = 0;
  };

  ByteEnd() = default;

  // A descriptor that nobody else has; it must not block if it is no socket.
  static ByteEnd own(base::UniqueFd fd);

  // A descriptor of ours (0, 1 or 2) that others share. With `leave_behind` false the number itself is handed
  // to /dev/null, so that close() lets the other side see the end.
  static base::Result<ByteEnd> standard(int fd, Direction direction, bool leave_behind);

  Outcome read(std::span<std::byte> out) const;
  Outcome write(std::span<const std::byte> bytes) const;

  // For epoll, edge-triggered. What epoll refuses with EPERM is always ready.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool valid() const { return fd_.valid(); }
  void close() { fd_.reset(); }
  // No more bytes will come from us; the other direction goes on. Only sockets know the difference.
  void half_close();

 private:
  enum class Kind : std::uint8_t { kAlwaysReady, kNonblocking, kSocket, kBlocking };
  ByteEnd(base::UniqueFd fd, Kind kind, bool terminal)
      : fd_(std::move(fd)), kind_(kind), terminal_(terminal) {}
  [[nodiscard]] bool in_background() const;
  [[nodiscard]] bool ready(short events) const;

  base::UniqueFd fd_;
  Kind kind_ = Kind::kAlwaysReady;
  bool terminal_ = false;
};

}  // namespace mayfly::cli
