// The backend on a stream socket, with a peer that sends what it likes.
#include <poll.h>
#include <sys/un.h>
#include <unistd.h>

#include <random>

#include "tests/support/temporary_folder.h"
#include "tests/unit/virtio/net_bench.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

namespace {

Bytes behind_length(const Bytes& content, std::optional<std::uint32_t> claimed = {}) {
  const std::uint32_t length = claimed.value_or(static_cast<std::uint32_t>(content.size()));
  Bytes bytes;
  for (const unsigned shift : {24U, 16U, 8U, 0U}) bytes.push_back(static_cast<std::byte>(length >> shift));
  bytes.insert(bytes.end(), content.begin(), content.end());
  return bytes;
}

// A stream with a peer at its other end.
struct Stream {
  Stream() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    backend = adopt_stream(base::UniqueFd(ends[0]));
    peer.reset(ends[1]);
  }
  void arrive(std::span<const std::byte> bytes) const {
    REQUIRE(::send(peer.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  }
  // Header and frame, into pieces of 12, 100, 100, … bytes.
  Backend::Moved read(std::size_t room = 70000) {
    received.assign(room, std::byte{0xee});
    std::vector<iovec> pieces = {{received.data(), sizeof(Header)}};
    for (std::size_t at = sizeof(Header); at < room; at += 100) {
      pieces.push_back({received.data() + at, std::min<std::size_t>(100, room - at)});
    }
    const auto done = backend->read(pieces);
    if (done) received.resize(std::min(*done, room));
    return done;
  }
  Backend::Moved write(Bytes packet) const {
    const std::size_t middle = packet.size() / 2;
    const std::array<iovec, 2> pieces = {
        {{packet.data(), middle}, {packet.data() + middle, packet.size() - middle}}};
    return backend->write(pieces);
  }
  // What the peer finds.
  Bytes take(std::size_t most = 1U << 20U) const {
    Bytes bytes(most);
    const ssize_t n = ::recv(peer.get(), bytes.data(), bytes.size(), 0);
    bytes.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
    return bytes;
  }

  std::unique_ptr<Backend> backend;
  base::UniqueFd peer;
  Bytes received;
};

}  // namespace

TEST_CASE("stream: frames go both ways") {
  Stream s;
  CHECK(s.backend->offloads() == 0);
  CHECK(s.backend->set_features(~0ULL));
  CHECK(s.read().error() == EAGAIN);
  const Bytes one = frame("one");
  const Bytes two = frame(text(60000));
  s.arrive(behind_length(one));
  s.arrive(behind_length(two));
  CHECK(s.read() == sizeof(Header) + one.size());
  CHECK(s.received == packet(one));
  CHECK(s.read() == sizeof(Header) + two.size());
  CHECK(s.received == packet(two));
  CHECK(s.read().error() == EAGAIN);

  CHECK(s.write(packet(one)) == sizeof(Header) + one.size());
  CHECK(s.take() == behind_length(one));
  CHECK(s.write(packet(two)) == sizeof(Header) + two.size());
  CHECK(s.take() == behind_length(two));
  CHECK_FALSE(s.backend->unsent());
}

TEST_CASE("stream: frames that arrive byte by byte, or cut anywhere") {
  const auto [seed, most] = GENERATE(table<unsigned, std::size_t>({{1, 1}, {2, 3}, {3, 40}, {4, 5000}}));
  CAPTURE(seed, most);
  Stream s;
  std::mt19937 random(seed);
  std::vector<Bytes> frames;
  Bytes all;
  for (int i = 0; i < 40; ++i) {
    // Some shorter than a frame has to be, some of no length: that is for the device to see.
    frames.push_back(i % 7 == 0 ? Bytes() : Bytes(random() % (100 * most) % 9000, std::byte(i)));
    const Bytes bytes = behind_length(frames.back());
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  std::size_t next = 0;
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t count = std::min(all.size() - at, 1 + random() % most);
    s.arrive(std::span(all).subspan(at, count));
    at += count;
    for (;;) {
      const auto done = s.read();
      if (!done) {
        REQUIRE(done.error() == EAGAIN);
        break;
      }
      REQUIRE(next < frames.size());
      CHECK(s.received == packet(frames[next++]));
    }
  }
  CHECK(next == frames.size());
}

TEST_CASE("stream: what the guest's memory does not hold is lost, and no more than that") {
  const bool in_pieces = GENERATE(false, true);
  Stream s;
  const Bytes large = behind_length(frame(text(3000)));
  const auto cut = static_cast<std::ptrdiff_t>(in_pieces ? 1000 : 0);
  if (in_pieces) {
    s.arrive(std::span(large).first(1000));
    CHECK(s.read(500).error() == EAGAIN);
  }
  s.arrive(std::span(large).subspan(static_cast<std::size_t>(cut)));
  s.arrive(behind_length(frame("next")));
  const auto done = s.read(500);
  CHECK(done == sizeof(Header) + frame(text(3000)).size());
  Bytes expected = packet(frame(text(3000)));
  expected.resize(500);
  CHECK(s.received == expected);
  CHECK(s.read(500));
  CHECK(s.received == packet(frame("next")));
}

TEST_CASE("stream: a length that no frame has ends it") {
  const auto length = GENERATE(std::uint32_t{kLargestFrame + 1}, 0x7fff'ffffU, 0x8000'0000U, 0xffff'ffffU);
  Stream s;
  s.arrive(behind_length(frame("x"), length));
  CHECK(s.read().error() == EPROTO);
  CHECK(s.read().error() == EPROTO);
  Stream largest;
  largest.arrive(behind_length(Bytes(kLargestFrame)));
  CHECK(largest.read() == sizeof(Header) + kLargestFrame);
}

TEST_CASE("stream: a peer that goes away, at a frame's border or within one") {
  const auto sent = GENERATE(std::size_t{0}, 2U, 4U, 20U);
  Stream s;
  const Bytes whole = behind_length(frame(text(100)));
  s.arrive(std::span(whole).first(sent));
  s.peer.reset();
  auto done = s.read();
  if (!done && done.error() == EAGAIN) done = s.read();
  CHECK(done.error() == ENODEV);
  CHECK(s.write(packet(frame("nobody"))).error() == ENODEV);
}

TEST_CASE("stream: a peer that is slow gets each frame whole") {
  Stream s;
  // The least that the kernel allows: larger frames go in part.
  const int least = 1;
  REQUIRE(::setsockopt(s.backend->fd(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) == 0);
  Bytes wanted;
  Bytes got;
  int taken = 0;
  int kept = 0;
  int waits = 0;
  for (int i = 0; taken < 50;) {
    const Bytes next = frame(text(20000 + 100 * static_cast<std::size_t>(i)));
    const auto done = s.write(packet(next));
    if (done) {
      CHECK(done == sizeof(Header) + next.size());
      const Bytes bytes = behind_length(next);
      wanted.insert(wanted.end(), bytes.begin(), bytes.end());
      ++taken;
      ++i;
    } else {
      REQUIRE(done.error() == EAGAIN);
      ++waits;
    }
    if (s.backend->unsent()) ++kept;
    const Bytes some = s.take(3000);
    got.insert(got.end(), some.begin(), some.end());
  }
  CHECK(kept > 0);
  CHECK(waits > 0);
  while (got.size() < wanted.size()) {
    if (s.backend->unsent()) {
      const auto flushed = s.backend->flush();
      if (!flushed) REQUIRE(flushed.error() == EAGAIN);
    }
    const Bytes some = s.take();
    got.insert(got.end(), some.begin(), some.end());
  }
  CHECK(got == wanted);
  CHECK_FALSE(s.backend->unsent());
}

TEST_CASE("stream: half a frame for a peer that goes away") {
  Stream s;
  const int least = 1;
  REQUIRE(::setsockopt(s.backend->fd(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) == 0);
  for (int i = 0; i < 10 && !s.backend->unsent(); ++i) s.write(packet(frame(text(60000))));
  REQUIRE(s.backend->unsent());
  s.peer.reset();
  CHECK(s.backend->flush().error() == ENODEV);
  CHECK(s.write(packet(frame("x"))).error() == ENODEV);
}

TEST_CASE("stream: the device sends what is left of a frame as soon as there is room") {
  Stream s;
  const int least = 1;
  REQUIRE(::setsockopt(s.backend->fd(), SOL_SOCKET, SO_SNDBUF, &least, sizeof(least)) == 0);
  const auto loop = base::EventLoop::create().value();
  FakeGuest guest;
  const auto device = Device::create({.id = "eth0", .socket_path = "/s", .mac = kGuestMac}, *loop,
                                     [&](const std::string& name) -> base::Result<std::unique_ptr<Backend>> {
                                       CHECK(name == "/s");
                                       return std::move(s.backend);
                                     })
                          .value();
  MmioTransport transport(*device, guest.memory(), [] {});
  MmioDriver registers(transport);
  REQUIRE(registers.negotiate(registers.offered()));
  CHECK((registers.offered() & kAllOffloads) == 0);
  DriverQueue rx(guest, 256, registers.offered());
  DriverQueue tx(guest, 256, registers.offered());
  registers.set_queue(0, rx.layout());
  registers.set_queue(1, tx.layout());
  registers.start();
  const auto rounds = [&](int count) {
    std::function<void()> next = [&] {
      if (--count > 0) return loop->post(next);
      loop->stop();
    };
    loop->post(next);
    REQUIRE(loop->run());
  };
  Bytes wanted;
  for (int i = 0; i < 10; ++i) {
    const Bytes each = frame(text(30000 + static_cast<std::size_t>(i)));
    const Bytes bytes = behind_length(each);
    wanted.insert(wanted.end(), bytes.begin(), bytes.end());
    ChainBuilder(guest).readable(packet(each)).submit(tx);
  }
  registers.notify(1);
  Bytes got;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (got.size() < wanted.size() && std::chrono::steady_clock::now() < deadline) {
    const Bytes some = s.take(4000);
    got.insert(got.end(), some.begin(), some.end());
    rounds(3);
  }
  CHECK(got == wanted);
  for (int i = 0; i < 10; ++i) CHECK(tx.take_used());

  // And what comes reaches the guest.
  ChainBuilder(guest).writable(2048).submit(rx);
  const Bytes answer = behind_length(frame("answer", kHostMac));
  s.arrive(std::span(answer).first(10));
  rounds(5);
  CHECK_FALSE(rx.take_used());
  s.arrive(std::span(answer).subspan(10));
  rounds(5);
  CHECK(rx.take_used());

  // A peer that breaks the framing is gone.
  CHECK(registers.read<std::uint16_t>(reg::kConfig + 6) == 1);
  ChainBuilder(guest).writable(2048).submit(rx);
  registers.notify(0);
  s.arrive(behind_length({}, 0xffff'ffff));
  rounds(5);
  CHECK(registers.read<std::uint16_t>(reg::kConfig + 6) == 0);
}

TEST_CASE("stream: connecting to a path") {
  const TemporaryFolder folder;
  const std::string path = folder.path("socket");
  const auto missing = open_stream(path);
  REQUIRE_FALSE(missing);
  CHECK_THAT(missing.error().message, Catch::Contains(path) && Catch::Contains("passt --one-off"));
  CHECK_THAT(open_stream(std::string(200, 'x')).error().message, Catch::Contains("107 bytes"));
  CHECK_THAT(open_stream("").error().message, Catch::Contains("path of a socket"));
  const base::UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  REQUIRE(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  CHECK_FALSE(open_stream(path));
  REQUIRE(::listen(listener.get(), 1) == 0);
  CHECK(open_stream(path));

  const auto loop = base::EventLoop::create().value();
  CHECK(Device::create({.id = "eth0", .socket_path = path, .mac = kGuestMac}, *loop));
  CHECK_FALSE(Device::create({.id = "eth0", .mac = kGuestMac}, *loop));
  CHECK_FALSE(Device::create({.id = "eth0", .tap = "t", .socket_path = path, .mac = kGuestMac}, *loop));
}
