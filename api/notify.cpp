#include "api/notify.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>

namespace mayfly::api {

using base::Result;

namespace {

// A path, or an abstract name that starts with @.
Result<base::UniqueFd> connect_to_systemd(std::string_view name) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (name.size() >= sizeof(address.sun_path))
    return base::fail("NOTIFY_SOCKET {}: the name is too long", name);
  name.copy(address.sun_path, name.size());
  if (name.front() == '@') address.sun_path[0] = '\0';
  base::UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
  if (!fd.valid() || ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), size) < 0) {
    return base::fail_errno(errno, "NOTIFY_SOCKET {}", name);
  }
  return fd;
}

}  // namespace

Result<Notifier> Notifier::create(int fd) {
  base::UniqueFd lines;
  if (fd >= 0) {
    // Its own, so that what else the descriptor is for goes on.
    lines.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!lines.valid()) return base::fail_errno(errno, "--notify-fd {}", fd);
    if (fd > 2) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  base::UniqueFd systemd;
  const char* const name = ::getenv("NOTIFY_SOCKET");
  if (name != nullptr && *name != '\0') systemd = TRY(connect_to_systemd(name));
  return Notifier(std::move(lines), std::move(systemd));
}

void Notifier::tell(std::string_view event, bool ready) const {
  if (fd_.valid()) {
    const std::string line = std::string(event) + "\n";
    [[maybe_unused]] const ssize_t n = ::write(fd_.get(), line.data(), line.size());
  }
  if (systemd_.valid()) {
    const std::string message = (ready ? "READY=1\nSTATUS=" : "STATUS=") + std::string(event);
    // Not send(2): write(2) is what a vCPU's thread, too, may call. SIGPIPE is ignored by the VMM.
    [[maybe_unused]] const ssize_t n = ::write(systemd_.get(), message.data(), message.size());
  }
}

}  // namespace mayfly::api
