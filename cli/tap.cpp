#include "cli/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>

#include "base/file.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr const char* kTunDevice = "/dev/net/tun";
constexpr const char* kPasst = "or use --net=passt, which needs neither root nor a tap";
// As the network device attaches to it (virtio/net/backend.h).
constexpr short kTapFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(std::begin(request.ifr_name), IFNAMSIZ - 1);
  return request;
}

Result<UniqueFd> open_tun() {
  UniqueFd fd(::open(kTunDevice, O_RDWR | O_CLOEXEC));
  if (fd.valid()) return fd;
  const int code = errno;
  if (code == ENOENT || code == ENODEV || code == ENXIO) {
    return fail_errno(code, "--net needs {} (modprobe tun; in a container, pass the device in; {})",
                      kTunDevice, kPasst);
  }
  return fail_errno(code, "--net needs {} ({})", kTunDevice, kPasst);
}

std::unexpected<base::Error> explain_set_up(int code, const std::string& name, const char* what) {
  if (code == EPERM || code == EACCES || code == EROFS) {
    return fail_errno(code, "--net: {} {}: it takes CAP_NET_ADMIN in this network namespace ({})", what, name,
                      kPasst);
  }
  return fail_errno(code, "--net: {} {}", what, name);
}

std::string setting(const char* family, const std::string& interface, const char* name) {
  return fmt::format("/proc/sys/net/{}/conf/{}/{}", family, interface, name);
}

bool is_on(const std::string& path) {
  const auto text = base::read_file(path, 16);
  return text && !text->starts_with('0');
}

Status write_setting(const std::string& path, const char* value) {
  const UniqueFd fd = TRY(base::open_file(path, O_WRONLY));
  return base::write_all(fd.get(), std::string_view(value));
}

// What holds whatever becomes of the rules: a packet filter may be flushed by others.
Status harden(const std::string& name) {
  // Where there is no IPv6 there is no such setting.
  if (auto off = write_setting(setting("ipv6", name, "disable_ipv6"), "1");
      !off && off.error().code != ENOENT) {
    return off;
  }
  for (const auto& [what, value] :
       {std::pair{"rp_filter", "1"}, std::pair{"arp_ignore", "2"}, std::pair{"accept_redirects", "0"},
        std::pair{"send_redirects", "0"}, std::pair{"route_localnet", "0"}}) {
    TRY(write_setting(setting("ipv4", name, what), value));
  }
  return {};
}

void put(sockaddr& out, std::uint32_t address) {
  sockaddr_in internet{};
  internet.sin_family = AF_INET;
  internet.sin_addr.s_addr = htonl(address);
  static_assert(sizeof(internet) == sizeof(out));
  std::memcpy(&out, &internet, sizeof(internet));
}

Status configure(const std::string& name, const Ipv4Network& host, std::uint16_t mtu) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "create a socket");
  const auto set = [&](unsigned long request, ifreq& what, const char* words) -> Status {
    if (::ioctl(fd.get(), request, &what) == 0) return {};
    return explain_set_up(errno, name, words);
  };
  ifreq request = request_for(name);
  request.ifr_mtu = mtu;
  TRY(set(SIOCSIFMTU, request, "set the MTU of"));
  request = request_for(name);
  put(request.ifr_addr, host.address.value);
  TRY(set(SIOCSIFADDR, request, "give an address to"));
  put(request.ifr_netmask, host.mask());
  TRY(set(SIOCSIFNETMASK, request, "set the netmask of"));
  request = request_for(name);
  request.ifr_flags = IFF_UP;
  return set(SIOCSIFFLAGS, request, "bring up");
}

}  // namespace

std::string tap_name(unsigned slot) {
  return fmt::format("{}{}", kTapPrefix, slot);
}

std::vector<unsigned> tap_slots() {
  const std::unique_ptr<struct if_nameindex, decltype(&::if_freenameindex)> list(::if_nameindex(),
                                                                                 ::if_freenameindex);
  std::vector<unsigned> slots;
  constexpr std::string_view kPrefix = kTapPrefix;
  for (const struct if_nameindex* each = list.get(); each != nullptr && each->if_index != 0; ++each) {
    const std::string_view name = each->if_name;
    if (!name.starts_with(kPrefix)) continue;
    unsigned slot = 0;
    const auto parsed = std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), slot);
    const bool whole = parsed.ec == std::errc{} && parsed.ptr == name.data() + name.size();
    if (whole && slot < kMostGuestNetworks) slots.push_back(slot);
  }
  return slots;
}

Result<UniqueFd> open_tap(const std::string& name) {
  UniqueFd fd = TRY(open_tun());
  ifreq request = request_for(name);
  request.ifr_flags = kTapFlags;
  if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) return explain_set_up(errno, name, "open the tap");
  return fd;
}

Status make_tap(const std::string& name, const Ipv4Network& host, std::uint16_t mtu) {
  const UniqueFd fd = TRY(open_tap(name));  // there is none: it is made
  // From here on closing the descriptor undoes it, until it is told to stay.
  if (const Status hardened = harden(name); !hardened) {
    return explain_set_up(hardened.error().code, name, "set up the tap");
  }
  TRY(configure(name, host, mtu));
  if (::ioctl(fd.get(), TUNSETPERSIST, 1) < 0) return explain_set_up(errno, name, "keep the tap");
  return {};
}

Removal remove_idle_tap(const std::string& name) {
  if (::if_nametoindex(name.c_str()) == 0) return Removal::kDone;
  const auto fd = open_tap(name);
  if (!fd) return Removal::kInUse;
  ::ioctl(fd->get(), TUNSETPERSIST, 0);
  return Removal::kDone;
}

Status remove_tap(const std::string& name) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  static_assert(sizeof(request) == NLMSG_LENGTH(sizeof(ifinfomsg)));
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_DELLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.link.ifi_index = static_cast<int>(::if_nametoindex(name.c_str()));
  if (request.link.ifi_index == 0) return {};
  const UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!netlink.valid()) return fail_errno(errno, "open a netlink socket");
  struct {
    nlmsghdr header;
    nlmsgerr error;
  } answer{};
  if (::send(netlink.get(), &request, sizeof(request), 0) < 0 ||
      ::recv(netlink.get(), &answer, sizeof(answer), 0) < 0) {
    return fail_errno(errno, "remove the tap {}", name);
  }
  if (answer.header.nlmsg_type == NLMSG_ERROR && answer.error.error != 0 && answer.error.error != -ENODEV) {
    return fail_errno(-answer.error.error, "remove the tap {}", name);
  }
  return {};
}

std::uint16_t mtu_of(const std::string& interface) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(interface);
  if (!fd.valid() || ::ioctl(fd.get(), SIOCGIFMTU, &request) < 0) return 0;
  return static_cast<std::uint16_t>(std::clamp(request.ifr_mtu, 0, 65535));
}

bool forwards() {
  return is_on("/proc/sys/net/ipv4/ip_forward");
}

bool forwards(const std::string& interface) {
  return is_on(setting("ipv4", interface, "forwarding"));
}

Status set_forwards(const std::string& interface, bool on) {
  return write_setting(setting("ipv4", interface, "forwarding"), on ? "1" : "0");
}

}  // namespace mayfly::cli
