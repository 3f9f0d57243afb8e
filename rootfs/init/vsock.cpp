#include "rootfs/init/vsock.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <linux/vm_sockets.h>

namespace mayfly::init {
namespace {

constexpr int kBacklog = 128;
// What the host may send ahead on a stream. The default, a quarter of it, has it wait for us every few
// packets.
constexpr std::uint64_t kWindow = 1U << 20U;
// Long: a host that is overloaded is not a host that is gone. One that does not listen refuses at once.
constexpr timeval kConnectTimeout{.tv_sec = 30, .tv_usec = 0};

sockaddr_vm address_of(std::uint32_t cid, std::uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

const sockaddr* generic(const sockaddr_vm& address) {
  return static_cast<const sockaddr*>(static_cast<const void*>(&address));
}

base::UniqueFd open_socket() {
  base::UniqueFd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fd;
  ::setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &kWindow, sizeof(kWindow));
  ::setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &kWindow, sizeof(kWindow));
  return fd;
}

}  // namespace

base::UniqueFd begin_connection(std::uint32_t cid, std::uint32_t port) {
  base::UniqueFd fd = open_socket();
  if (!fd.valid()) return fd;
  ::setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &kConnectTimeout, sizeof(kConnectTimeout));
  const sockaddr_vm address = address_of(cid, port);
  if (::connect(fd.get(), generic(address), sizeof(address)) != 0 && errno != EINPROGRESS) fd.reset();
  return fd;
}

base::UniqueFd listen_on(std::uint32_t port) {
  base::UniqueFd fd = open_socket();
  if (!fd.valid()) return fd;
  const sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
  if (::bind(fd.get(), generic(address), sizeof(address)) != 0 || ::listen(fd.get(), kBacklog) != 0)
    fd.reset();
  return fd;
}

}  // namespace mayfly::init
