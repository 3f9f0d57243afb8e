#include "virtio/net/backend.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/file.h"
#include "base/unique_fd.h"
#include "virtio/net/packet.h"

namespace mayfly::virtio::net {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

// preadv2(2): with this offset it is readv(2). The calls that drives use are used here, too, so that the
// system call filter has two fewer to allow.
constexpr off_t kNowhere = -1;

constexpr const char* kTunDevice = "/dev/net/tun";
constexpr int kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;  // one queue, and nothing but headers of virtio

// Which of the kernel's offloads a driver's feature stands for. Packets that the driver leaves to us to cut
// or to sum up (HOST_*, CSUM) need nothing set: the kernel takes them from any tap with a vnet header.
struct Offload {
  std::uint64_t feature;
  unsigned flag;
};
constexpr std::array<Offload, 5> kOffloads = {{
    {kFeatureGuestCsum, TUN_F_CSUM},
    {kFeatureGuestTso4, TUN_F_TSO4},
    {kFeatureGuestTso6, TUN_F_TSO6},
    {kFeatureGuestEcn, TUN_F_TSO_ECN},
    {kFeatureGuestUfo, TUN_F_UFO},
}};
constexpr std::uint64_t kAlwaysOffered = kFeatureCsum | kFeatureHostTso4 | kFeatureHostTso6 |
                                         kFeatureHostEcn | kFeatureGuestCsum | kFeatureGuestTso4 |
                                         kFeatureGuestTso6 | kFeatureGuestEcn;

Backend::Moved moved(ssize_t n) {
  if (n < 0) return std::unexpected(errno);
  return static_cast<std::size_t>(n);
}

class TapBackend final : public Backend {
 public:
  TapBackend(base::UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  // Finds out what the kernel can do, and leaves the tap as a driver without offloads needs it.
  Status prepare() {
    offloads_ = kAlwaysOffered;
    // A kernel that knows no UFO refuses the flag.
    constexpr std::uint64_t kUfo = kFeatureGuestUfo | kFeatureHostUfo;
    if (set_features(kAlwaysOffered | kUfo)) offloads_ |= kUfo;
    return set_features(0);
  }

  [[nodiscard]] int fd() const override { return fd_.get(); }
  [[nodiscard]] std::uint64_t offloads() const override { return offloads_; }

  Status set_features(std::uint64_t features) override {
    unsigned flags = 0;
    for (const Offload& offload : kOffloads) {
      if ((features & offload.feature) != 0) flags |= offload.flag;
    }
    if (::ioctl(fd_.get(), TUNSETOFFLOAD, flags) < 0) {
      return fail_errno(errno, "set the offloads of the tap {}", name_);
    }
    return {};
  }

  Moved read(std::span<const iovec> pieces) override {
    for (;;) {
      const Moved done =
          moved(::preadv2(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), kNowhere, 0));
      if (done || done.error() != EINTR) return done;
    }
  }
  Moved write(std::span<const iovec> pieces) override {
    for (;;) {
      const Moved done =
          moved(::pwritev2(fd_.get(), pieces.data(), static_cast<int>(pieces.size()), kNowhere, 0));
      if (done || done.error() != EINTR) return done;
    }
  }

 private:
  base::UniqueFd fd_;
  std::string name_;
  std::uint64_t offloads_ = 0;
};

}  // namespace

Status check_tap_name(const std::string& name) {
  if (base::passed_descriptor(name)) return {};
  const bool odd = name == "." || name == ".." || std::ranges::any_of(name, [](char c) {
                     return c == '/' || c == ':' || c <= ' ' || c == '\x7f';
                   });
  if (name.empty() || name.size() >= IFNAMSIZ || odd) {
    return fail("\"{}\" cannot be the name of a tap: that has 1 to {} bytes, no /, no : and no blank", name,
                IFNAMSIZ - 1);
  }
  return {};
}

namespace {

Result<base::UniqueFd> open_tun_device(const std::string& name) {
  auto fd = base::open_file(kTunDevice, O_RDWR | O_NONBLOCK);
  if (fd) return fd;
  const int code = fd.error().code;
  const char* remedy = "it must be there, and the tun module loaded";
  if (code == ENOENT || code == ENODEV || code == ENXIO) {
    remedy = "load the module with \"modprobe tun\"; in a container, pass the device in";
  } else if (code == EACCES || code == EPERM) {
    remedy = "this user may not open it; allow it with \"chmod 666 /dev/net/tun\"";
  }
  return fail_because(std::move(fd).error(), "the tap {} needs {} ({})", name, kTunDevice, remedy);
}

std::unexpected<base::Error> explain_attach(int code, const std::string& name) {
  switch (code) {
    case EPERM:
      return fail_errno(code,
                        "the tap {} belongs to another user (make it with \"ip tuntap add {} mode tap user "
                        "USER\", or run with CAP_NET_ADMIN)",
                        name, name);
    case EBUSY:
      return fail_errno(code, "the tap {} is in use by another process (give each machine a tap of its own)",
                        name);
    case EINVAL:
      return fail_errno(
          code,
          "{} is not a tap interface with one queue (make one with \"ip tuntap add NAME mode tap\", "
          "without multi_queue)",
          name);
    default:
      return fail_errno(code, "attach to the tap {}", name);
  }
}

Status attach(int fd, const std::string& name) {
  // TUNSETIFF makes what does not exist, and that would be gone again with us, without address or bridge.
  if (::if_nametoindex(name.c_str()) == 0) {
    return fail_errno(
        ENODEV, "there is no tap {} (make it with \"ip tuntap add {} mode tap\", and \"ip link set {} up\")",
        name, name, name);
  }
  ifreq request{};
  std::ranges::copy(name, std::begin(request.ifr_name));
  request.ifr_flags = kTapFlags;
  if (::ioctl(fd, TUNSETIFF, &request) < 0) return explain_attach(errno, name);
  return {};
}

// What was passed in is a tap, attached as attach() does it.
Status check_passed(int fd, const std::string& name) {
  ifreq request{};
  if (::ioctl(fd, TUNGETIFF, &request) < 0) return fail_errno(errno, "{} is not an attached tap", name);
  constexpr int kMatter = IFF_TUN | IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;
  if ((request.ifr_flags & kMatter) != kTapFlags) {
    return fail("{} is not a tap that was attached with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR", name);
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return fail_errno(errno, "set the flags of {}", name);
  return {};
}

Status set_header(int fd, const std::string& name) {
  const int header_size = sizeof(Header);
  if (::ioctl(fd, TUNSETVNETHDRSZ, &header_size) < 0) {
    return fail_errno(errno, "set the header size of the tap {}", name);
  }
  // Headers are the guest's, little-endian on any host.
  const int little_endian = 1;
  if (::ioctl(fd, TUNSETVNETLE, &little_endian) < 0) {
    return fail_errno(errno, "set the byte order of the tap {}", name);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Backend>> open_tap(const std::string& name) {
  TRY(check_tap_name(name));
  const bool passed = base::passed_descriptor(name).has_value();
  base::UniqueFd fd = TRY(passed ? base::open_file(name, O_RDWR) : open_tun_device(name));
  TRY(passed ? check_passed(fd.get(), name) : attach(fd.get(), name));
  TRY(set_header(fd.get(), name));
  auto tap = std::make_unique<TapBackend>(std::move(fd), name);
  TRY(tap->prepare());
  return tap;
}

}  // namespace mayfly::virtio::net
