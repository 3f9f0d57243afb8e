// Many connections, much data, slow peers.
#include <poll.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <random>

#include "tests/unit/vsock/guest.h"
#include "tests/unit/vsock/host.h"

namespace mayfly::test {

using vsock::kShutdownBoth;
using vsock::kShutdownSend;

namespace {

// Sanitizers make everything slower by an order of magnitude.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kMuch = 16U << 20U;
constexpr int kShortConnections = 1000;
constexpr std::size_t kStuck = 600U << 10U;
#else
constexpr std::uint64_t kMuch = 256U << 20U;
constexpr int kShortConnections = 5000;
constexpr std::size_t kStuck = 2U << 20U;
#endif

// A stream of bytes that does not repeat at any power of two.
class Pattern {
 public:
  explicit Pattern(std::uint32_t seed) : bytes_(65'521 * 16, '\0') {
    std::minstd_rand random(seed + 1);
    for (char& c : bytes_) c = static_cast<char>(random() >> 8U);
  }
  // The next bytes of it, at most n.
  std::string_view next(std::size_t n) {
    const std::string_view part = std::string_view(bytes_).substr(position_, n);
    position_ = (position_ + part.size()) % bytes_.size();
    total_ += part.size();
    return part;
  }
  // Whether these are the next bytes.
  bool matches(std::string_view text) {
    while (!text.empty()) {
      const std::string_view part = next(text.size());
      if (text.substr(0, part.size()) != part) return false;
      text.remove_prefix(part.size());
    }
    return true;
  }
  [[nodiscard]] std::uint64_t total() const { return total_; }

 private:
  std::string bytes_;
  std::size_t position_ = 0;
  std::uint64_t total_ = 0;
};

// Another text for each seed, at most 2 MiB.
std::string noise(std::uint32_t seed, std::size_t size) {
  static const std::string all = [] {
    std::minstd_rand random(7);
    std::string text(3U << 20U, '\0');
    for (char& c : text) c = static_cast<char>(random() >> 8U);
    return text;
  }();
  return all.substr(seed * 521 % (1U << 20U), size);
}

// A host program on a thread; errors come out in join().
class Program {
 public:
  explicit Program(std::function<void()> body)
      : thread_([this, body = std::move(body)] {
          try {
            body();
          } catch (...) {
            error_ = std::current_exception();
          }
          done_ = true;
        }) {}
  ~Program() {
    if (thread_.joinable()) thread_.join();
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  [[nodiscard]] bool done() const { return done_; }
  void join() {
    thread_.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> done_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

// Sends back what comes on many sockets until each one's end of file, then closes it.
void echo(std::vector<HostSocket> sockets) {
  std::vector<std::string> pending(sockets.size());
  std::vector<bool> ended(sockets.size());
  std::size_t open = sockets.size();
  while (open > 0) {
    std::vector<pollfd> polled;
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      const bool want_in = !ended[i] && pending[i].size() < (64U << 10U);
      const auto events = static_cast<short>((want_in ? POLLIN : 0) | (pending[i].empty() ? 0 : POLLOUT));
      polled.push_back({.fd = events == 0 ? -1 : sockets[i].fd(), .events = events, .revents = 0});
    }
    if (::poll(polled.data(), polled.size(), 240'000) <= 0) throw std::runtime_error("echo waited in vain");
    for (std::size_t i = 0; i < sockets.size(); ++i) {
      if (polled[i].revents == 0) continue;
      if ((polled[i].events & POLLIN) != 0) {
        std::string part(16U << 10U, '\0');
        const ssize_t n = ::recv(sockets[i].fd(), part.data(), part.size(), MSG_DONTWAIT);
        if (n == 0) ended[i] = true;
        if (n > 0) pending[i].append(part, 0, static_cast<std::size_t>(n));
      }
      if (!pending[i].empty()) {
        const ssize_t n =
            ::send(sockets[i].fd(), pending[i].data(), pending[i].size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) pending[i].erase(0, static_cast<std::size_t>(n));
      }
      if (ended[i] && pending[i].empty() && sockets[i].fd() >= 0) {
        sockets[i].close();
        --open;
      }
    }
  }
}

}  // namespace

TEST_CASE("500 connections at once, half of them made by each side") {
  constexpr std::size_t kEach = 250;
  constexpr std::size_t kBytes = 60'000;
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);

  std::vector<GuestSocket*> made;
  for (std::uint32_t i = 0; i < kEach; ++i) made.push_back(&sockets.start_connect(52));
  sockets.run_until([&] { return std::ranges::all_of(made, [](auto* s) { return s->connected; }); },
                    "all of the guest's");
  std::vector<HostSocket> echoing;
  for (std::size_t i = 0; i < kEach; ++i) echoing.push_back(listener.accept());

  std::vector<GuestSocket*> taken;
  sockets.listen([&](GuestSocket& socket) { taken.push_back(&socket); });
  std::vector<HostSocket> asking;
  for (std::size_t i = 0; i < kEach; ++i) {
    asking.push_back(HostSocket::connect(driver.uds_path()));
    asking.back().write("CONNECT 7\n");
  }
  sockets.run_until([&] { return taken.size() == kEach; }, "all of the host's");
  driver.kick();
  CHECK(driver.connections() == 2 * kEach);

  Program echo_program([&] { echo(std::move(echoing)); });
  Program ask_program([&] {
    // Small enough for the sockets to hold, so that one thread can write to all before it reads.
    for (std::size_t i = 0; i < kEach; ++i) {
      if (!asking[i].read_line().starts_with("OK ")) throw std::runtime_error("no OK");
      asking[i].write(noise(static_cast<std::uint32_t>(i), kBytes));
      asking[i].shut_write();
    }
    for (std::size_t i = 0; i < kEach; ++i) {
      if (asking[i].read_all() != noise(static_cast<std::uint32_t>(i), kBytes)) {
        throw std::runtime_error("another answer");
      }
      asking[i].close();
    }
  });
  for (std::uint32_t i = 0; i < kEach; ++i) {
    sockets.write(*made[i], noise(1000 + i, kBytes));
  }
  std::size_t finished = 0;
  sockets.run_until(
      [&] {
        for (GuestSocket* socket : made) {
          if (socket->out.empty() && socket->own_shutdown == 0) sockets.shutdown(*socket, kShutdownSend);
        }
        for (GuestSocket* socket : taken) {
          sockets.write(*socket, socket->read);
          socket->read.clear();
          const bool all_read = socket->peer_shutdown != 0 && socket->in.empty() && socket->out.empty();
          if (all_read && socket->own_shutdown == 0) {
            sockets.close(*socket);
            ++finished;
          }
        }
        const bool all_ended =
            std::ranges::all_of(made, [](auto* s) { return s->peer_shutdown == kShutdownBoth; });
        return finished == kEach && all_ended;
      },
      "the end of all");
  for (std::uint32_t i = 0; i < kEach; ++i) CHECK(made[i]->read == noise(1000 + i, kBytes));
  for (GuestSocket* socket : made) sockets.close(*socket);
  sockets.run_until([&] { return driver.connections() == 0; }, "no connection left");
  echo_program.join();
  ask_program.join();
  CHECK(driver.counters().protocol_violations == 0);
}

TEST_CASE("A guest that writes much and closes: all of it arrives, then the end of file") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket& socket = sockets.connect(52);
  Pattern pattern(1);
  std::uint64_t arrived = 0;
  Program reader([&] {
    const HostSocket host = listener.accept();
    Pattern expected(1);
    for (std::string part = host.read(100'000); !part.empty(); part = host.read(100'000)) {
      if (!expected.matches(part)) throw std::runtime_error("other bytes");
      arrived = expected.total();
    }
  });
  sockets.run_until(
      [&] {
        while (socket.out.size() < (256U << 10U) && pattern.total() < kMuch) {
          sockets.write(socket, pattern.next(std::min<std::uint64_t>(kMuch - pattern.total(), 100'000)));
        }
        return pattern.total() == kMuch && socket.out.empty();
      },
      "room for all of it");
  sockets.close(socket);
  sockets.run_until([&] { return socket.reset; }, "RST");
  reader.join();
  CHECK(arrived == kMuch);
  CHECK(driver.counters().bytes_from_guest == kMuch);
}

TEST_CASE("A host program that writes much and half-closes: all of it arrives, then SHUTDOWN") {
  GuestOptions options;
  options.receive_size = GENERATE(4096U, 65580U);
  Driver driver(options);
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket& socket = sockets.connect(52);
  Program writer([&] {
    const HostSocket host = listener.accept();
    Pattern pattern(2);
    while (pattern.total() < kMuch) {
      if (!host.write(pattern.next(std::min<std::uint64_t>(kMuch - pattern.total(), 100'000)))) {
        throw std::runtime_error("write");
      }
    }
    host.shut_write();
    static_cast<void>(host.read(1));  // stays until the guest closes
  });
  Pattern expected(2);
  bool same = true;
  sockets.run_until(
      [&] {
        same = same && expected.matches(socket.read);
        socket.read.clear();
        return socket.peer_shutdown == kShutdownSend && socket.in.empty();
      },
      "the end of file");
  CHECK(same);
  CHECK(expected.total() == kMuch);
  sockets.close(socket);
  sockets.run_until([&] { return socket.reset; }, "RST");
  writer.join();
}

TEST_CASE("Host programs that read nothing hold a bounded amount each, and no one else up") {
  constexpr int kSlow = 20;
  Driver driver;
  const HostListener slow_listener(driver.uds_path(52));
  const HostListener listener(driver.uds_path(53));
  SocketLayer sockets(driver);
  std::vector<HostSocket> slow_hosts;
  std::vector<GuestSocket*> slow;
  for (int i = 0; i < kSlow; ++i) {
    slow.push_back(&sockets.connect(52));
    slow_hosts.push_back(slow_listener.accept());
    sockets.write(*slow.back(), noise(static_cast<std::uint32_t>(i), kStuck));
  }
  GuestSocket& quick = sockets.connect(53);
  const HostSocket quick_host = listener.accept();
  while (sockets.turn()) {
  }
  for (GuestSocket* socket : slow) {
    CHECK(socket->credit() == 0);
    // Forwarded to the socket's own buffer at most; what is not forwarded is in ours.
    CHECK(socket->sent - socket->peer_forwarded <= vsock::kBufferSize);
  }
  for (int round = 0; round < 100; ++round) {
    sockets.write(quick, "ping");
    sockets.turn();
    REQUIRE(quick_host.read(4) == "ping");
    quick_host.write("pong");
    sockets.run_until([&] { return quick.read.size() == 4; }, "pong");
    quick.read.clear();
  }
  // They wake up, and nothing was lost.
  for (int i = 0; i < kSlow; ++i) {
    std::string got;
    Program reader([&] { got = slow_hosts[static_cast<std::size_t>(i)].read(kStuck); });
    sockets.run_until([&] { return reader.done(); }, "a slow reader");
    reader.join();
    CHECK(got == noise(static_cast<std::uint32_t>(i), kStuck));
  }
}

TEST_CASE("A guest that reads nothing on one connection does not hold up another") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket& stuck = sockets.connect(52);
  stuck.reading = false;
  const HostSocket stuck_host = listener.accept();
  std::atomic<bool> stop = false;
  Program writer([&] {
    const std::string part(100'000, 'x');
    while (!stop) {
      const ssize_t n = ::send(stuck_host.fd(), part.data(), part.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  sockets.run_until([&] { return stuck.in.size() == stuck.buf_alloc; }, "a full guest socket");
  GuestSocket& other = sockets.connect(52);
  const HostSocket host = listener.accept();
  host.write(noise(5, 50'000));
  sockets.run_until([&] { return other.read == noise(5, 50'000); }, "the other's data");
  CHECK(stuck.in.size() == stuck.buf_alloc);
  // It reads on.
  stuck.reading = true;
  sockets.run_until([&] { return stuck.read.size() > 3U << 20U; }, "more");
  stop = true;
  writer.join();
}

TEST_CASE("A connection gets its turns while another has endless data") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket& bulk = sockets.connect(52);
  HostSocket bulk_host = listener.accept();
  std::atomic<bool> stop = false;
  Program writer([&] {
    const std::string part(100'000, 'x');
    while (!stop) bulk_host.write(part);
    bulk_host.close();
  });
  GuestSocket& small = sockets.connect(52);
  const HostSocket host = listener.accept();
  for (int round = 0; round < 50; ++round) {
    host.write("ping");
    sockets.run_until(
        [&] {
          bulk.read.clear();
          return small.read.size() == 4;
        },
        "ping");
    small.read.clear();
  }
  stop = true;
  sockets.run_until([&] { return bulk.peer_shutdown != 0; }, "the end of the bulk");
  writer.join();
}

TEST_CASE("Thousands of short connections, the ports used again") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  sockets.listen([&](GuestSocket& socket) { sockets.write(socket, "hello"); });
  for (int i = 0; i < kShortConnections; ++i) {
    GuestSocket& socket = sockets.connect(52, 1000 + static_cast<std::uint32_t>(i) % 3);
    REQUIRE(socket.connected);
    const HostSocket host = listener.accept();
    sockets.write(socket, "hi");
    while (sockets.turn()) {
    }
    sockets.close(socket);
    sockets.turn();
    REQUIRE(host.read_all() == "hi");
    sockets.run_until([&] { return socket.reset; }, "RST");
    sockets.forget(socket);
  }
  for (int i = 0; i < kShortConnections / 5; ++i) {
    HostSocket host = HostSocket::connect(driver.uds_path());
    host.write("CONNECT 7\n");
    sockets.run_until([&] { return !sockets.sockets().empty(); }, "a request");
    GuestSocket& socket = sockets.sockets().begin()->second;
    while (sockets.turn()) {
    }
    REQUIRE(host.read_line().starts_with("OK "));
    REQUIRE(host.read(5) == "hello");
    host.close();
    sockets.run_until([&] { return socket.peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
    driver.send(guest_header(vsock::Op::kRst, socket.ports.guest, socket.ports.host));
    sockets.forget(socket);
  }
  wait_until([&] { return driver.connections() == 0; }, "no connection left");
  const vsock::Counters counters = driver.counters();
  CHECK(counters.connections_from_guest == kShortConnections);
  CHECK(counters.connections_from_host == kShortConnections / 5);
}

TEST_CASE("Resets in the middle of much data, over and over") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  for (std::uint32_t round = 0; round < 20; ++round) {
    SocketLayer sockets(driver);
    GuestSocket& a = sockets.connect(52);
    const HostSocket host_a = listener.accept();
    GuestSocket& b = sockets.connect(52);
    const HostSocket host_b = listener.accept();
    Program writer([&] {
      const std::string part(100'000, 'x');
      while (host_a.write(part)) {
      }
    });
    sockets.write(b, std::string(1U << 20U, 'y'));
    sockets.run_until([&] { return a.read.size() > round * 10'000; }, "some data");
    driver.reset();
    writer.join();
    static_cast<void>(host_b.read_all());
    CHECK(driver.connections() == 0);
    driver.activate();
  }
}

}  // namespace mayfly::test
