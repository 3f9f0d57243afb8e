// Taps in a network namespace of the test's own, and the host's side of them.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace mayfly::test {

inline constexpr int kWaitMs = 60'000;

// Once for the program, before it has any thread. As root a namespace of one's own is to be had directly,
// else by way of a user namespace.
inline bool in_own_network() {
  static const bool done = [] {
    if (::access("/dev/net/tun", F_OK) != 0) return false;
    if (::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) return true;
    FAIL("no network namespace: " << std::strerror(errno));
    return false;
  }();
  if (!done) std::cout << "skipped: /dev/net/tun is missing\n";
  return done;
}

inline ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(std::begin(request.ifr_name), IFNAMSIZ - 1);
  return request;
}

inline void set_up(const std::string& name, bool up) {
  const base::UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(name);
  REQUIRE(::ioctl(control.get(), SIOCGIFFLAGS, &request) == 0);
  request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  REQUIRE(::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
}

// `ip link del NAME`, of which whoever has the interface open is told. Whether there was one.
inline bool delete_link(const std::string& name) {
  struct {
    nlmsghdr header;
    ifinfomsg link;
  } request{};
  static_assert(sizeof(request) == NLMSG_LENGTH(sizeof(ifinfomsg)));
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_DELLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.link.ifi_index = static_cast<int>(::if_nametoindex(name.c_str()));
  if (request.link.ifi_index == 0) return false;
  const base::UniqueFd netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  struct {
    nlmsghdr header;
    nlmsgerr error;
  } answer{};
  return ::send(netlink.get(), &request, sizeof(request), 0) == sizeof(request) &&
         ::recv(netlink.get(), &answer, sizeof(answer), 0) == sizeof(answer) && answer.error.error == 0;
}

// As `ip tuntap add NAME mode tap` makes one; gone with this object.
class Tap {
 public:
  explicit Tap(std::string name, int flags = IFF_TAP | IFF_NO_PI) : name_(std::move(name)) {
    const base::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request = request_for(name_);
    request.ifr_flags = static_cast<short>(flags);
    REQUIRE(::ioctl(fd.get(), TUNSETIFF, &request) == 0);
    REQUIRE(::ioctl(fd.get(), TUNSETPERSIST, 1) == 0);
  }
  ~Tap() { delete_link(name_); }
  Tap(const Tap&) = delete;
  Tap& operator=(const Tap&) = delete;

 private:
  std::string name_;
};

// The host's side of an interface. The type keeps the kernel's own chatter out.
class Host {
 public:
  explicit Host(const std::string& name) : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)) {
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(kType);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
    REQUIRE(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  }
  void send(const std::vector<std::byte>& frame) {
    REQUIRE(::send(socket_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  }
  std::vector<std::byte> take() {
    pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
    std::vector<std::byte> frame(100000);
    const ssize_t n = ::recv(socket_.get(), frame.data(), frame.size(), 0);
    REQUIRE(n > 0);
    frame.resize(static_cast<std::size_t>(n));
    return frame;
  }
  bool nothing() {
    pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    return ::poll(&ready, 1, 0) == 0;
  }
  static constexpr std::uint16_t kType = 0x88b5;  // for local experiments; test::frame()'s

 private:
  base::UniqueFd socket_;
};

}  // namespace mayfly::test
