// The tap backend and the device on it, with a real tap in a network namespace of this program's own.
#include <catch2/catch.hpp>

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
#include <unistd.h>

#include <cstring>
#include <iostream>

#include "tests/unit/virtio/net_bench.h"
#include "virtio/net/backend.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

namespace {

constexpr int kWaitMs = 60'000;

// Once for the program, before it has any thread. As root a namespace of one's own is to be had directly,
// else by way of a user namespace.
bool in_own_network() {
  static const bool done = [] {
    if (::access("/dev/net/tun", F_OK) != 0) return false;
    if (::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) return true;
    FAIL("no network namespace: " << std::strerror(errno));
    return false;
  }();
  if (!done) std::cout << "skipped: /dev/net/tun is missing\n";
  return done;
}

ifreq request_for(const std::string& name) {
  ifreq request{};
  name.copy(std::begin(request.ifr_name), IFNAMSIZ - 1);
  return request;
}

void set_up(const std::string& name, bool up) {
  const base::UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(name);
  REQUIRE(::ioctl(control.get(), SIOCGIFFLAGS, &request) == 0);
  request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
  REQUIRE(::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
}

// `ip link del NAME`, of which whoever has the interface open is told. Whether there was one.
bool delete_link(const std::string& name) {
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
  void send(const Bytes& frame) {
    REQUIRE(::send(socket_.get(), frame.data(), frame.size(), 0) == static_cast<ssize_t>(frame.size()));
  }
  Bytes take() {
    pollfd ready{.fd = socket_.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
    Bytes frame(100000);
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

iovec piece(Bytes& bytes) {
  return {bytes.data(), bytes.size()};
}

bool is_ours(const Bytes& packet) {
  return packet.size() > 26 && packet[24] == std::byte{0x88} && packet[25] == std::byte{0xb5};
}

// The next frame of our type, cut over pieces of 100 bytes.
Bytes read_ours(Backend& tap) {
  for (;;) {
    pollfd ready{.fd = tap.fd(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
    Bytes packet(3000);
    std::vector<iovec> pieces;
    for (std::size_t at = 0; at < packet.size(); at += 100) pieces.push_back({packet.data() + at, 100});
    const auto length = tap.read(pieces);
    REQUIRE(length);
    packet.resize(*length);
    if (is_ours(packet)) return packet;
  }
}

std::string error_of(const std::string& name) {
  const auto tap = open_tap(name);
  REQUIRE_FALSE(tap);
  CHECK_THAT(tap.error().message, Catch::Contains(name));
  return tap.error().message;
}

}  // namespace

TEST_CASE("tap: frames go both ways") {
  if (!in_own_network()) return;
  const Tap interface("mf0");
  const auto tap = open_tap("mf0").value();
  Bytes empty(100);
  const std::array<iovec, 1> room = {piece(empty)};
  CHECK(tap->read(room).error() == EAGAIN);
  set_up("mf0", true);
  Host host("mf0");

  Bytes sent = packet(frame("to the host"));
  const std::array<iovec, 2> pieces = {{{sent.data(), 20}, {sent.data() + 20, sent.size() - 20}}};
  CHECK(tap->write(pieces) == sent.size());
  CHECK(host.take() == frame("to the host"));

  host.send(frame(std::string(1000, 'g'), kHostMac));
  CHECK(read_ours(*tap) == packet(frame(std::string(1000, 'g'), kHostMac)));
  CHECK((tap->offloads() & kFeatureHostTso4) != 0);
  CHECK(tap->set_features(tap->offloads()));
  CHECK(tap->set_features(0));
}

TEST_CASE("tap: each error names the tap, the cause and the remedy") {
  if (!in_own_network()) return;
  CHECK_THAT(error_of("mf1"), Catch::Contains("ip tuntap add mf1 mode tap"));
  // That must not have made one.
  CHECK(::if_nametoindex("mf1") == 0);
  CHECK_THAT(error_of("sixteen-bytes-xx"), Catch::Contains("15 bytes"));
  CHECK_THAT(error_of("a/b"), Catch::Contains("no /"));
  CHECK_THAT(error_of(""), Catch::Contains("name of a tap"));
  CHECK_THAT(error_of("mf%d"), Catch::Contains("there is no tap"));
  CHECK_THAT(error_of("lo"), Catch::Contains("not a tap interface"));
  const Tap tun("mf2", IFF_TUN | IFF_NO_PI);
  CHECK_THAT(error_of("mf2"), Catch::Contains("not a tap interface"));
  const Tap queues("mf3", IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE);
  CHECK_THAT(error_of("mf3"), Catch::Contains("multi_queue"));
  const Tap busy("mf4");
  const auto first = open_tap("mf4");
  REQUIRE(first);
  CHECK_THAT(error_of("mf4"), Catch::Contains("in use"));
}

TEST_CASE("tap: an interface that is down, up again, and gone") {
  if (!in_own_network()) return;
  const auto loop = base::EventLoop::create().value();
  FakeGuest guest;
  const Tap interface("mf5");
  const auto device = Device::create({.id = "eth0", .tap = "mf5", .mac = kGuestMac}, *loop).value();
  MmioTransport transport(*device, guest.memory(), [] {});
  MmioDriver registers(transport);
  REQUIRE(registers.negotiate(registers.offered()));
  DriverQueue rx(guest, 256, registers.offered());
  DriverQueue tx(guest, 256, registers.offered());
  registers.set_queue(0, rx.layout());
  registers.set_queue(1, tx.layout());
  registers.start();
  REQUIRE(registers.status() == 15);
  const auto link = [&] { return registers.read<std::uint16_t>(reg::kConfig + 6); };
  const auto send = [&](std::string_view payload) {
    ChainBuilder(guest).readable(packet(frame(payload))).submit(tx);
    registers.notify(1);
    CHECK(tx.take_used());
  };
  const auto wait_for_link = [&](std::uint16_t wanted) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kWaitMs);
    while (link() != wanted && std::chrono::steady_clock::now() < deadline) {
      loop->post([&] { loop->stop(); });
      REQUIRE(loop->run());
    }
    CHECK(link() == wanted);
  };

  CHECK(link() == 1);
  send("down from the start");
  CHECK(link() == 0);
  set_up("mf5", true);
  wait_for_link(1);
  Host host("mf5");
  send("hello");
  CHECK(host.take() == frame("hello"));

  for (int i = 0; i < 100; ++i) ChainBuilder(guest).writable(1536).submit(rx);
  host.send(frame(std::string(1400, 'r'), kHostMac));
  std::optional<Used> used;
  Bytes got;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(kWaitMs);
  while (!is_ours(got) && std::chrono::steady_clock::now() < deadline) {
    loop->post([&] { loop->stop(); });
    REQUIRE(loop->run());
    used = rx.take_used();
    if (used) {
      got = rx.bytes_of(used->id);
      got.resize(used->length);
    }
  }
  Header header;
  header.num_buffers = 1;
  CHECK(got == packet(frame(std::string(1400, 'r'), kHostMac), header));
  CHECK(host.nothing());

  REQUIRE(delete_link("mf5"));
  wait_for_link(0);
  send("nowhere");
  const std::lock_guard lock(device->mutex());
  CHECK(device->metrics().tx_link_down == 1);
  CHECK(device->metrics().tx_errors == 1);
}
