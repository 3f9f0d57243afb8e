// The host's side: unix stream sockets, never waited for.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::virtio::vsock {

// What a read or write of a socket came to.
struct Transfer {
  enum class Status : std::uint8_t {
    kSome,     // `bytes` > 0 were moved
    kBlocked,  // none to be had, or no room, now
    kEnded,    // reading: end of file; writing: the peer reads no more
    kFailed,   // reading: the peer closed without having read all we sent, or worse
  };
  Status status;
  std::size_t bytes = 0;
};

// Of more parts than this, the first ones are used.
inline constexpr std::size_t kMaxParts = 64;

Transfer read_socket(int fd, std::span<const std::span<std::byte>> parts);
// The bytes stay where they are, for read_socket().
Transfer peek_socket(int fd, std::span<std::byte> out);
Transfer write_socket(int fd, std::span<const std::span<std::byte>> parts);
Transfer write_socket(int fd, std::string_view text);

// What remains of `parts` after the first n bytes.
std::vector<std::span<std::byte>> after(std::span<const std::span<std::byte>> parts, std::size_t n);

// A connection to the listener at `path`. Does not wait: a listener with a full backlog is an error.
base::Result<base::UniqueFd> connect_socket(const std::string& path);

// A socket that host programs connect to. Its file is removed with it, unless it is another's by then.
class Listener {
 public:
  static base::Result<Listener> create(const std::string& path);
  ~Listener();
  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) = delete;
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  [[nodiscard]] int fd() const { return fd_.get(); }
  // The next program that connected, or nothing when there is none now. An error: out of file descriptors or
  // memory; the program stays in the backlog.
  base::Result<std::optional<base::UniqueFd>> accept() const;

 private:
  Listener(base::UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  base::UniqueFd fd_;
  std::string path_;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace mayfly::virtio::vsock
