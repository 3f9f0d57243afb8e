#include "rootfs/init/vsock.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <linux/vm_sockets.h>

namespace mayfly::init {
namespace {

constexpr int kType = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kBacklog = 128;
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

}  // namespace

base::UniqueFd begin_connection(std::uint32_t cid, std::uint32_t port) {
  base::UniqueFd fd(::socket(AF_VSOCK, kType, 0));
  if (!fd.valid()) return fd;
  ::setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &kConnectTimeout, sizeof(kConnectTimeout));
  const sockaddr_vm address = address_of(cid, port);
  if (::connect(fd.get(), generic(address), sizeof(address)) != 0 && errno != EINPROGRESS) fd.reset();
  return fd;
}

base::UniqueFd listen_on(std::uint32_t port) {
  base::UniqueFd fd(::socket(AF_VSOCK, kType, 0));
  if (!fd.valid()) return fd;
  const sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
  if (::bind(fd.get(), generic(address), sizeof(address)) != 0 || ::listen(fd.get(), kBacklog) != 0)
    fd.reset();
  return fd;
}

}  // namespace mayfly::init
