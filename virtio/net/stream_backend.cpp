// Frames over a unix stream socket, each behind its length: what passt speaks.
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "virtio/net/backend.h"
#include "virtio/net/packet.h"

namespace mayfly::virtio::net {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

// In front of each frame: its length in bytes, big-endian.
using Prefix = std::array<std::uint8_t, 4>;

constexpr std::uint32_t decode(const Prefix& prefix) {
  return std::uint32_t{prefix[0]} << 24U | std::uint32_t{prefix[1]} << 16U | std::uint32_t{prefix[2]} << 8U |
         std::uint32_t{prefix[3]};
}
constexpr Prefix encode(std::size_t length) {
  return {static_cast<std::uint8_t>(length >> 24U), static_cast<std::uint8_t>(length >> 16U),
          static_cast<std::uint8_t>(length >> 8U), static_cast<std::uint8_t>(length)};
}

std::size_t size_of(std::span<const iovec> pieces) {
  std::size_t size = 0;
  for (const iovec& piece : pieces) size += piece.iov_len;
  return size;
}

// Adds to `out` the `limit` bytes of `pieces` from `skip` on, or as many as there are.
void add_window(std::vector<iovec>& out, std::span<const iovec> pieces, std::size_t skip, std::size_t limit) {
  for (const iovec& piece : pieces) {
    const std::size_t skipped = std::min(skip, piece.iov_len);
    skip -= skipped;
    const std::size_t length = std::min(piece.iov_len - skipped, limit);
    limit -= length;
    if (length > 0) out.push_back({static_cast<std::byte*>(piece.iov_base) + skipped, length});
  }
}

void scatter(std::span<const std::byte> bytes, std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    const std::size_t length = std::min(bytes.size(), piece.iov_len);
    if (length > 0) std::memcpy(piece.iov_base, bytes.data(), length);
    bytes = bytes.subspan(length);
  }
}

void gather(std::span<const iovec> pieces, std::vector<std::byte>& out) {
  for (const iovec& piece : pieces) {
    const auto* const bytes = static_cast<const std::byte*>(piece.iov_base);
    out.insert(out.end(), bytes, bytes + piece.iov_len);
  }
}

// Most frames go straight between the socket and guest memory, in one call that also takes the next one's
// length. Only a frame that came or went in part is kept here: what guest memory holds meanwhile is the
// guest's. Nothing but a frame's own content is ever taken from there.
class StreamBackend final : public Backend {
 public:
  explicit StreamBackend(base::UniqueFd socket) : socket_(std::move(socket)) {}

  [[nodiscard]] int fd() const override { return socket_.get(); }
  // Frames have no header on the way, so there is no word for an offload.
  [[nodiscard]] std::uint64_t offloads() const override { return 0; }
  Status set_features(std::uint64_t /*features*/) override { return {}; }

  Moved read(std::span<const iovec> pieces) override;
  Moved write(std::span<const iovec> pieces) override;
  [[nodiscard]] bool unsent() const override { return !unsent_.empty(); }
  std::expected<void, int> flush() override;

 private:
  Moved receive();
  Moved transmit();
  Moved finish(std::span<const iovec> pieces, std::size_t length, std::size_t received);

  base::UniqueFd socket_;
  Prefix prefix_{};  // of the frame that comes next, as far as it is there
  std::size_t prefix_have_ = 0;
  Prefix next_{};                   // where the one after that is received to
  std::vector<std::byte> partial_;  // of the frame that comes next; kLargestFrame once it is in use
  std::size_t partial_have_ = 0;
  std::vector<std::byte> unsent_;
  std::size_t unsent_begin_ = 0;
  std::vector<iovec> pieces_;  // of the call that is made
};

// Into pieces_. There is never nothing to receive, so that 0 is the end of the stream.
Backend::Moved StreamBackend::receive() {
  msghdr message{};
  message.msg_iov = pieces_.data();
  message.msg_iovlen = pieces_.size();
  for (;;) {
    const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
    if (n > 0) return static_cast<std::size_t>(n);
    if (n == 0) return std::unexpected(ENODEV);
    if (errno != EINTR) return std::unexpected(errno);
  }
}

Backend::Moved StreamBackend::read(std::span<const iovec> pieces) {
  while (prefix_have_ < prefix_.size()) {
    pieces_.assign(1, {prefix_.data() + prefix_have_, prefix_.size() - prefix_have_});
    const Moved received = receive();
    if (!received) return received;
    prefix_have_ += *received;
  }
  const std::size_t length = decode(prefix_);
  // After a length that no frame has, nothing that follows can be told apart.
  if (length > kLargestFrame) return std::unexpected(EPROTO);
  // What is received next is the next frame's, which may not be there.
  if (length == 0) return finish(pieces, 0, 0);

  const bool direct = partial_have_ == 0 && sizeof(Header) + length <= size_of(pieces);
  pieces_.clear();
  if (direct) {
    add_window(pieces_, pieces, sizeof(Header), length);
  } else {
    partial_.resize(kLargestFrame);
    pieces_.push_back({partial_.data() + partial_have_, length - partial_have_});
  }
  pieces_.push_back({next_.data(), next_.size()});
  const Moved received = receive();
  if (!received) return received;
  if (direct && *received >= length) return finish(pieces, length, *received);
  if (direct) {
    partial_.clear();
    pieces_.clear();
    add_window(pieces_, pieces, sizeof(Header), *received);
    gather(pieces_, partial_);
  }
  partial_have_ += *received;
  if (partial_have_ < length) return std::unexpected(EAGAIN);
  // What does not fit is lost, and the length tells so.
  const std::size_t all = partial_have_;
  pieces_.clear();
  add_window(pieces_, pieces, sizeof(Header), length);
  scatter(std::span(partial_).first(length), pieces_);
  return finish(pieces, length, all);
}

// A frame of `length` bytes is in its place; `received`: with what came of the next one's length.
Backend::Moved StreamBackend::finish(std::span<const iovec> pieces, std::size_t length,
                                     std::size_t received) {
  const Header none;
  scatter(std::as_bytes(std::span(&none, 1)), pieces);
  prefix_ = next_;
  prefix_have_ = received - length;
  partial_have_ = 0;
  return sizeof(Header) + length;
}

// Out of pieces_.
Backend::Moved StreamBackend::transmit() {
  msghdr message{};
  message.msg_iov = pieces_.data();
  message.msg_iovlen = pieces_.size();
  for (;;) {
    const ssize_t n = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0) return static_cast<std::size_t>(n);
    if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) return std::unexpected(ENODEV);
    if (errno != EINTR) return std::unexpected(errno);
  }
}

Backend::Moved StreamBackend::write(std::span<const iovec> pieces) {
  // Behind half a frame there is no room for another.
  if (const auto flushed = flush(); !flushed) return std::unexpected(flushed.error());
  const std::size_t size = size_of(pieces);
  if (size < sizeof(Header)) return std::unexpected(EINVAL);
  Prefix prefix = encode(size - sizeof(Header));
  pieces_.assign(1, {prefix.data(), prefix.size()});
  add_window(pieces_, pieces, sizeof(Header), size - sizeof(Header));
  const Moved sent = transmit();
  if (!sent) return sent;
  const std::size_t all = sizeof(Prefix) + size - sizeof(Header);
  if (*sent < all) {
    std::vector<iovec> rest;
    add_window(rest, pieces_, *sent, all - *sent);
    gather(rest, unsent_);
  }
  return size;
}

std::expected<void, int> StreamBackend::flush() {
  while (!unsent_.empty()) {
    pieces_.assign(1, {unsent_.data() + unsent_begin_, unsent_.size() - unsent_begin_});
    const Moved sent = transmit();
    if (!sent) return std::unexpected(sent.error());
    unsent_begin_ += *sent;
    if (unsent_begin_ < unsent_.size()) continue;
    unsent_.clear();
    unsent_begin_ = 0;
  }
  return {};
}

std::unexpected<base::Error> explain_connect(int code, const std::string& path) {
  if (code == ENOENT || code == ECONNREFUSED) {
    return fail_errno(code, "nothing listens at the socket {} (start \"passt --one-off --socket {}\" first)",
                      path, path);
  }
  return fail_errno(code, "connect to the socket {}", path);
}

}  // namespace

Result<std::unique_ptr<Backend>> open_stream(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path) || path.find('\0') != std::string::npos) {
    return fail("\"{}\" cannot be the path of a socket: that has 1 to {} bytes", path,
                sizeof(address.sun_path) - 1);
  }
  std::ranges::copy(path, std::begin(address.sun_path));
  base::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(errno, "create a socket");
  const auto* const generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::connect(socket.get(), generic, sizeof(address)) < 0) return explain_connect(errno, path);
  return adopt_stream(std::move(socket));
}

std::unique_ptr<Backend> adopt_stream(base::UniqueFd socket) {
  return std::make_unique<StreamBackend>(std::move(socket));
}

}  // namespace mayfly::virtio::net
