// Host programs for tests: blocking unix sockets that give up after some minutes.
#pragma once

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace mayfly::test {

class HostSocket {
 public:
  explicit HostSocket(base::UniqueFd fd) : fd_(std::move(fd)) {
    const timeval patience{.tv_sec = 240, .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  }
  static HostSocket connect(const std::string& path) {
    HostSocket socket{base::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0))};
    const sockaddr_un address = address_of(path);
    if (::connect(socket.fd(), generic(address), sizeof(address)) < 0)
      throw std::runtime_error("connect " + path);
    return socket;
  }

  [[nodiscard]] int fd() const { return fd_.get(); }
  // False when the other end is gone.
  bool write(std::string_view text) const {
    while (!text.empty()) {
      const ssize_t n = ::send(fd(), text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // Fewer bytes only at the end of file or after a reset.
  [[nodiscard]] std::string read(std::size_t size) const {
    std::string text(size, '\0');
    std::size_t done = 0;
    while (done < size) {
      const ssize_t n = ::recv(fd(), text.data() + done, size - done, 0);
      if (n < 0 && errno == EAGAIN) throw std::runtime_error("a host program waited in vain for data");
      if (n <= 0) break;
      done += static_cast<std::size_t>(n);
    }
    text.resize(done);
    return text;
  }
  [[nodiscard]] std::string read_line() const {
    std::string line;
    while (!line.ends_with('\n')) {
      const std::string byte = read(1);
      if (byte.empty()) break;
      line += byte;
    }
    return line;
  }
  [[nodiscard]] std::string read_all() const {
    std::string all;
    for (std::string part = read(64 << 10); !part.empty(); part = read(64 << 10)) all += part;
    return all;
  }
  void shut_write() const { ::shutdown(fd(), SHUT_WR); }
  void shut_read() const { ::shutdown(fd(), SHUT_RD); }
  void close() { fd_.reset(); }

  static sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path, address.sun_path);
    return address;
  }
  static const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
  }

 private:
  base::UniqueFd fd_;
};

class HostListener {
 public:
  explicit HostListener(const std::string& path, int backlog = 1024)
      : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const sockaddr_un address = HostSocket::address_of(path);
    if (::bind(fd_.get(), HostSocket::generic(address), sizeof(address)) < 0 ||
        ::listen(fd_.get(), backlog) < 0) {
      throw std::runtime_error("listen on " + path);
    }
    const timeval patience{.tv_sec = 240, .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  [[nodiscard]] HostSocket accept() const {
    base::UniqueFd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) throw std::runtime_error("a listener waited in vain");
    return HostSocket(std::move(fd));
  }

 private:
  base::UniqueFd fd_;
};

}  // namespace mayfly::test
