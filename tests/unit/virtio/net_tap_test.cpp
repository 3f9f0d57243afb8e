// The tap backend and the device on it, with a real tap in a network namespace of this program's own.
#include <catch2/catch.hpp>

#include <poll.h>

#include "tests/support/tap.h"
#include "tests/unit/virtio/net_bench.h"
#include "virtio/net/backend.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

namespace {

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

TEST_CASE("tap: a descriptor that was passed in") {
  if (!in_own_network()) return;
  const Tap interface("mf6");
  const auto attached = [](short flags) {
    base::UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq request = request_for("mf6");
    request.ifr_flags = flags;
    REQUIRE(::ioctl(fd.get(), TUNSETIFF, &request) == 0);
    return fd;
  };
  {
    const base::UniqueFd fd = attached(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    set_up("mf6", true);
    Host host("mf6");
    const auto tap = open_tap(fmt::format("/dev/fd/{}", fd.get()));
    REQUIRE(tap.has_value());
    Bytes sent = packet(frame("by a descriptor"));
    const std::array<iovec, 1> pieces = {piece(sent)};
    CHECK((*tap)->write(pieces) == sent.size());
    CHECK(host.take() == frame("by a descriptor"));
    host.send(frame("and back", kHostMac));
    CHECK(read_ours(**tap) == packet(frame("and back", kHostMac)));
  }
  const base::UniqueFd bare = attached(IFF_TAP | IFF_NO_PI);
  CHECK_THAT(error_of(fmt::format("/dev/fd/{}", bare.get())), Catch::Contains("IFF_VNET_HDR"));
  const base::UniqueFd null(::open("/dev/null", O_RDWR));
  CHECK_THAT(error_of(fmt::format("/dev/fd/{}", null.get())), Catch::Contains("not an attached tap"));
  CHECK_THAT(error_of("/dev/fd/987654"), Catch::Contains("Bad file descriptor"));
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
