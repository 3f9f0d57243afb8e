#include "cli/listener.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::UniqueFd;

base::Result<std::unique_ptr<Listener>> Listener::create(base::EventLoop& loop, const std::string& path,
                                                         std::function<void(UniqueFd)> on_connection) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail("{} is too long for a socket", path);
  std::memcpy(address.sun_path, path.data(), path.size());

  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "create a socket");
  // The socket API wants its generic address type.
  const auto* const generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::bind(fd.get(), generic, sizeof(address)) < 0) return fail_errno(errno, "bind {}", path);
  if (::listen(fd.get(), 16) < 0) return fail_errno(errno, "listen on {}", path);

  const int raw = fd.get();
  std::unique_ptr<Listener> listener(new Listener(loop, std::move(fd), path));
  // One connection an event: the callback may close the listener.
  TRY(loop.add(raw, EPOLLIN, [raw, on_connection = std::move(on_connection)](std::uint32_t) {
    UniqueFd connection(::accept4(raw, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connection.valid()) on_connection(std::move(connection));
  }));
  return listener;
}

Listener::~Listener() {
  loop_.remove(fd_.get());
  ::unlink(path_.c_str());
}

}  // namespace mayfly::cli
