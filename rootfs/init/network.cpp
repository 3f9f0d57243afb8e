#include "rootfs/init/network.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "base/unique_fd.h"
#include "rootfs/init/console.h"
#include "rootfs/init/text.h"

namespace mayfly::init {
namespace {

constexpr const char* kInterface = "eth0";
constexpr const char* kResolverFile = "/etc/resolv.conf";
// Where it really is when the root is not to be changed.
constexpr const char* kMountedFile = "/run/mayfly-resolv.conf";

ifreq request_for(const char* name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name, std::strlen(name));
  return request;
}

// The layout of every address begins with the same sa_family_t; the copy is how the calls take them.
void put(sockaddr& out, in_addr address) {
  sockaddr_in internet{};
  internet.sin_family = AF_INET;
  internet.sin_addr = address;
  static_assert(sizeof(internet) == sizeof(out));
  std::memcpy(&out, &internet, sizeof(internet));
}

struct Halves {
  std::string_view before;
  std::string_view after;
};
// At the first `separator`; without one, all is before it.
Halves cut(std::string_view text, char separator) {
  const std::size_t at = text.find(separator);
  if (at == std::string_view::npos) return {text, {}};
  return {{text.data(), at}, {text.data() + at + 1, text.size() - at - 1}};
}

bool parse_address(std::string_view text, in_addr& address) {
  std::array<char, INET_ADDRSTRLEN> digits;
  if (text.size() >= digits.size()) return false;
  join_text(digits, {text});
  return ::inet_pton(AF_INET, digits.data(), &address) == 1;
}

// ADDRESS/PREFIX
bool parse_network(std::string_view text, in_addr& address, in_addr& mask) {
  const auto [host, digits] = cut(text, '/');
  if (!parse_address(host, address)) return false;
  unsigned prefix = 0;
  if (digits.empty() || digits.size() > 2) return false;
  for (const char digit : digits) {
    if (digit < '0' || digit > '9') return false;
    prefix = prefix * 10 + static_cast<unsigned>(digit - '0');
  }
  if (prefix < 1 || prefix > 32) return false;
  mask.s_addr = htonl(~0U << (32 - prefix));
  return true;
}

bool set_up_interface(in_addr address, in_addr mask, in_addr gateway) {
  const base::UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return false;
  ifreq request = request_for(kInterface);
  put(request.ifr_addr, address);
  if (::ioctl(fd.get(), SIOCSIFADDR, &request) != 0) return false;
  put(request.ifr_netmask, mask);
  if (::ioctl(fd.get(), SIOCSIFNETMASK, &request) != 0) return false;
  request = request_for(kInterface);
  request.ifr_flags = IFF_UP;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return false;
  rtentry route{};
  put(route.rt_dst, in_addr{});
  put(route.rt_genmask, in_addr{});
  put(route.rt_gateway, gateway);
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  return ::ioctl(fd.get(), SIOCADDRT, &route) == 0;
}

// Appends each part of a list between commas, with `before` and `after` around it. What does not fit is left
// out.
class Lines {
 public:
  void add(std::string_view text) {
    if (text.size() > text_.size() - length_) return;
    if (!text.empty()) std::memcpy(text_.data() + length_, text.data(), text.size());
    length_ += text.size();
  }
  void add_each(std::string_view list, std::string_view before, std::string_view after) {
    while (!list.empty()) {
      const auto [part, rest] = cut(list, ',');
      add(before);
      add(part);
      add(after);
      list = rest;
    }
  }
  [[nodiscard]] std::string_view view() const { return {text_.data(), length_}; }

 private:
  std::array<char, 2048> text_;
  std::size_t length_ = 0;
};

bool write_new_file(const char* path, std::string_view text) {
  ::unlink(path);
  const base::UniqueFd fd(::open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  return fd.valid() && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

bool write_resolver_file(const NetworkOptions& options, RootMode mode) {
  Lines lines;
  lines.add_each(options.nameservers, "nameserver ", "\n");
  if (!options.search.empty()) {
    lines.add("search");
    lines.add_each(options.search, " ", "");
    lines.add("\n");
  }
  if (mode == RootMode::kScratch) {
    [[maybe_unused]] const int made = ::mkdir("/etc", 0755);
    return write_new_file(kResolverFile, lines.view());
  }
  return write_new_file(kMountedFile, lines.view()) &&
         ::mount(kMountedFile, kResolverFile, nullptr, MS_BIND, nullptr) == 0;
}

}  // namespace

void bring_loopback_up() {
  const base::UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return;
  ifreq request = request_for("lo");
  request.ifr_flags = IFF_UP;
  ::ioctl(fd.get(), SIOCSIFFLAGS, &request);
}

bool set_up_network(const NetworkOptions& options, RootMode mode) {
  if (options.address.empty()) return true;
  in_addr address{};
  in_addr mask{};
  in_addr gateway{};
  if (!parse_network(options.address, address, mask) || !parse_address(options.gateway, gateway)) {
    complain({"not an address and a gateway: ", options.address, " ", options.gateway});
    return false;
  }
  if (!set_up_interface(address, mask, gateway)) {
    complain_errno(errno, {"cannot set up the network interface ", kInterface});
    return false;
  }
  if (!options.nameservers.empty() && !write_resolver_file(options, mode)) {
    complain_errno(errno, {"cannot write ", kResolverFile});
  }
  return true;
}

}  // namespace mayfly::init
