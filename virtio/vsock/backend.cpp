#include "virtio/vsock/backend.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>

namespace mayfly::virtio::vsock {

using base::fail;
using base::fail_errno;
using base::Result;
using base::UniqueFd;

namespace {

constexpr int kBacklog = 1024;

// A message of up to kMaxParts parts.
class Message {
 public:
  explicit Message(std::span<const std::span<std::byte>> parts) {
    for (const auto& part : parts.first(std::min(parts.size(), kMaxParts))) {
      if (!part.empty()) vectors_[used_++] = {.iov_base = part.data(), .iov_len = part.size()};
    }
  }
  Message(const Message&) = delete;
  Message& operator=(const Message&) = delete;

  msghdr* header() {
    header_.msg_iov = vectors_.data();
    header_.msg_iovlen = used_;
    return &header_;
  }

 private:
  std::array<iovec, kMaxParts> vectors_;  // only the first used_ are set
  std::size_t used_ = 0;
  msghdr header_{};
};

bool would_block(int error) {
  return error == EAGAIN || error == EWOULDBLOCK;
}

Transfer receive(int fd, Message message, int flags) {
  for (;;) {
    const ssize_t n = ::recvmsg(fd, message.header(), flags | MSG_DONTWAIT);
    if (n > 0) return {Transfer::Status::kSome, static_cast<std::size_t>(n)};
    if (n == 0) return {Transfer::Status::kEnded};
    if (errno == EINTR) continue;
    return {would_block(errno) ? Transfer::Status::kBlocked : Transfer::Status::kFailed};
  }
}

Transfer transmit(int fd, Message message) {
  for (;;) {
    const ssize_t n = ::sendmsg(fd, message.header(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) return {Transfer::Status::kSome, static_cast<std::size_t>(n)};
    if (n < 0 && errno == EINTR) continue;
    // For want of memory (ENOBUFS, ENOMEM) nothing is lost either, but no event would tell when to go on.
    return {n < 0 && would_block(errno) ? Transfer::Status::kBlocked : Transfer::Status::kEnded};
  }
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty()) return fail("the path of a unix socket is empty");
  if (path.size() >= sizeof(address.sun_path)) {
    return fail("{}: a unix socket's path has at most {} bytes, this one has {}", path,
                sizeof(address.sun_path) - 1, path.size());
  }
  if (path.find('\0') != std::string::npos) return fail("the path of a unix socket contains a NUL");
  std::ranges::copy(path, address.sun_path);
  return address;
}

// The one place where a sockaddr_un is called a sockaddr, as the socket calls want it.
const sockaddr* generic(const sockaddr_un& address) {
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-reinterpret-cast)
  return reinterpret_cast<const sockaddr*>(&address);
}

Result<UniqueFd> stream_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "create a unix socket");
  return fd;
}

}  // namespace

Transfer read_socket(int fd, std::span<const std::span<std::byte>> parts) {
  return receive(fd, Message(parts), 0);
}

Transfer peek_socket(int fd, std::span<std::byte> out) {
  return receive(fd, Message(std::span(&out, 1)), MSG_PEEK);
}

Transfer write_socket(int fd, std::span<const std::span<std::byte>> parts) {
  return transmit(fd, Message(parts));
}

Transfer write_socket(int fd, std::string_view text) {
  // An iovec is for both directions; sendmsg(2) only reads.
  iovec piece{.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  for (;;) {
    const ssize_t n = ::sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) return {Transfer::Status::kSome, static_cast<std::size_t>(n)};
    if (n < 0 && errno == EINTR) continue;
    return {n < 0 && would_block(errno) ? Transfer::Status::kBlocked : Transfer::Status::kEnded};
  }
}

std::vector<std::span<std::byte>> after(std::span<const std::span<std::byte>> parts, std::size_t n) {
  std::vector<std::span<std::byte>> rest;
  for (const auto& part : parts) {
    const std::size_t gone = std::min(n, part.size());
    n -= gone;
    if (gone < part.size()) rest.push_back(part.subspan(gone));
  }
  return rest;
}

Result<UniqueFd> connect_socket(const std::string& path) {
  const sockaddr_un address = TRY(address_of(path));
  UniqueFd fd = TRY(stream_socket());
  // A unix socket connects at once or not at all, so EINTR cannot leave a connection under way.
  while (::connect(fd.get(), generic(address), sizeof(address)) < 0) {
    if (errno != EINTR) return fail_errno(errno, "connect to {}", path);
  }
  return fd;
}

Result<Listener> Listener::create(const std::string& path) {
  const sockaddr_un address = TRY(address_of(path));
  UniqueFd fd = TRY(stream_socket());
  if (::bind(fd.get(), generic(address), sizeof(address)) < 0) {
    const int error = errno;
    if (error == EADDRINUSE) {
      return std::unexpected(
          base::Error{error, fmt::format("{}: exists already; remove it or choose another path", path)});
    }
    if (error == ENOENT) {
      return std::unexpected(
          base::Error{error, fmt::format("{}: the folder for this socket does not exist", path)});
    }
    return fail_errno(error, "make the socket {}", path);
  }
  Listener listener(std::move(fd), path);
  struct stat status {};
  if (::lstat(path.c_str(), &status) < 0) return fail_errno(errno, "look at the socket {}", path);
  listener.device_ = status.st_dev;
  listener.inode_ = status.st_ino;
  if (::listen(listener.fd(), kBacklog) < 0) return fail_errno(errno, "listen on {}", path);
  return listener;
}

Listener::~Listener() {
  if (!fd_.valid()) return;
  struct stat status {};
  if (::lstat(path_.c_str(), &status) < 0) return;
  if (status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
}

Result<std::optional<UniqueFd>> Listener::accept() const {
  for (;;) {
    UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.valid()) return fd;
    if (would_block(errno)) return std::nullopt;
    // A program that went away again while it waited is no reason to stop.
    if (errno != EINTR && errno != ECONNABORTED) return fail_errno(errno, "accept on {}", path_);
  }
}

}  // namespace mayfly::virtio::vsock
