// What mayfly passes on by itself, with servers and clients on the loopback interface.
#include "cli/relay.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "cli/publish.h"

using namespace mayfly;
using namespace mayfly::cli;

namespace {

constexpr Ipv4 kLoopback{0x7f00'0001};
constexpr int kWaitMs = 120'000;  // only a hang gets there

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(kLoopback.value);
  address.sin_port = htons(port);
  return address;
}

base::UniqueFd bound(int type) {
  base::UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(0);
  REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  if (type == SOCK_STREAM) REQUIRE(::listen(fd.get(), 200) == 0);
  return fd;
}

std::uint16_t port_of(const base::UniqueFd& fd) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  REQUIRE(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return ntohs(address.sin_port);
}

base::UniqueFd connected(int type, std::uint16_t port) {
  base::UniqueFd fd(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  REQUIRE(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  return fd;
}

// A relay in a thread of its own, to `server`.
struct Bench {
  explicit Bench(int type) : server(bound(type)) {
    base::UniqueFd socket(::socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const sockaddr_in address = loopback(0);
    REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
    port = port_of(socket);
    relay = Relay::create(*loop, std::move(socket), type == SOCK_DGRAM, {kLoopback, port_of(server)}).value();
    thread = std::jthread([this] { static_cast<void>(loop->run()); });
  }
  ~Bench() {
    loop->stop();
    thread.join();
    relay.reset();
  }
  base::UniqueFd accept() const {
    pollfd ready{.fd = server.get(), .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
    return base::UniqueFd(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  std::unique_ptr<base::EventLoop> loop = base::EventLoop::create().value();
  base::UniqueFd server;
  std::uint16_t port = 0;
  std::unique_ptr<Relay> relay;
  std::jthread thread;
};

void put(const base::UniqueFd& fd, std::string_view text) {
  REQUIRE(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
}
std::string get(const base::UniqueFd& fd) {
  pollfd ready{.fd = fd.get(), .events = POLLIN, .revents = 0};
  REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
  std::string text(65536, '\0');
  const ssize_t n = ::recv(fd.get(), text.data(), text.size(), 0);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}
std::string get_all(const base::UniqueFd& fd) {
  std::string all;
  for (std::string part; !(part = get(fd)).empty();) all += part;
  return all;
}

}  // namespace

TEST_CASE("relay: a connection, both ways, each with its own end") {
  Bench b(SOCK_STREAM);
  const base::UniqueFd client = connected(SOCK_STREAM, b.port);
  const base::UniqueFd server = b.accept();
  put(client, "question");
  CHECK(get(server) == "question");
  ::shutdown(client.get(), SHUT_WR);
  CHECK(get(server).empty());
  // The answer comes after the question's end.
  const std::string answer(3'000'000, 'a');
  std::jthread writer([&] {
    put(server, answer);
    ::shutdown(server.get(), SHUT_WR);
  });
  CHECK(get_all(client) == answer);
}

TEST_CASE("relay: nobody listens at the other end") {
  Bench b(SOCK_STREAM);
  b.server.reset();
  const base::UniqueFd client = connected(SOCK_STREAM, b.port);
  CHECK(get(client).empty());
}

TEST_CASE("relay: one that leaves without a word takes the other along") {
  Bench b(SOCK_STREAM);
  base::UniqueFd client = connected(SOCK_STREAM, b.port);
  base::UniqueFd server = b.accept();
  put(client, "x");
  CHECK(get(server) == "x");
  const linger abrupt{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(server.get(), SOL_SOCKET, SO_LINGER, &abrupt, sizeof(abrupt));
  server.reset();
  CHECK(get(client).empty());
}

TEST_CASE("relay: more connections than there is room for wait for their turn") {
  Bench b(SOCK_STREAM);
  std::vector<base::UniqueFd> clients;
  std::vector<base::UniqueFd> servers;
  for (std::size_t i = 0; i < Relay::kMostPeers + 20; ++i) {
    clients.push_back(connected(SOCK_STREAM, b.port));
    put(clients.back(), std::to_string(i));
  }
  for (std::size_t i = 0; i < Relay::kMostPeers; ++i) servers.push_back(b.accept());
  pollfd more{.fd = b.server.get(), .events = POLLIN, .revents = 0};
  CHECK(::poll(&more, 1, 100) == 0);
  servers.clear();
  clients.erase(clients.begin(), clients.begin() + Relay::kMostPeers);
  for (std::size_t i = 0; i < 20; ++i) {
    servers.push_back(b.accept());
    CHECK(get(servers.back()) == std::to_string(Relay::kMostPeers + i));
  }
}

TEST_CASE("relay: datagrams find their way back, whoever sent them") {
  Bench b(SOCK_DGRAM);
  std::vector<base::UniqueFd> clients;
  // More than are remembered: the first are forgotten, and known again when they speak again.
  for (std::size_t i = 0; i < Relay::kMostPeers + 30; ++i) clients.push_back(connected(SOCK_DGRAM, b.port));
  for (int round = 0; round < 2; ++round) {
    for (std::size_t i = 0; i < clients.size(); ++i) {
      const std::string text = fmt::format("{} {}", round, i);
      put(clients[i], text);
      sockaddr_in from{};
      socklen_t size = sizeof(from);
      std::string question(100, '\0');
      pollfd ready{.fd = b.server.get(), .events = POLLIN, .revents = 0};
      REQUIRE(::poll(&ready, 1, kWaitMs) == 1);
      const ssize_t n = ::recvfrom(b.server.get(), question.data(), question.size(), 0,
                                   reinterpret_cast<sockaddr*>(&from), &size);
      question.resize(static_cast<std::size_t>(n));
      CHECK(question == text);
      const std::string answer = "re " + question;
      ::sendto(b.server.get(), answer.data(), answer.size(), 0, reinterpret_cast<sockaddr*>(&from), size);
      CHECK(get(clients[i]) == answer);
    }
  }
}

TEST_CASE("relay: datagrams for nobody are lost, and later ones are not") {
  Bench b(SOCK_DGRAM);
  const std::uint16_t server_port = port_of(b.server);
  b.server.reset();
  const base::UniqueFd client = connected(SOCK_DGRAM, b.port);
  for (int i = 0; i < 3; ++i) put(client, "lost");
  base::UniqueFd server(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(server_port);
  REQUIRE(::bind(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  pollfd ready{.fd = server.get(), .events = POLLIN, .revents = 0};
  // The last of the lost ones may have been under way until now.
  std::string text;
  for (int i = 0; i < 1000 && text != "there"; ++i) {
    put(client, "there");
    if (::poll(&ready, 1, 100) == 1) text = get(server);
  }
  CHECK(text == "there");
}

TEST_CASE("a port that cannot be had") {
  const base::UniqueFd taken = bound(SOCK_STREAM);
  const std::uint16_t port = port_of(taken);
  const auto refused = [](const std::string& text) {
    const auto socket = bind_port(parse_publish(text).value());
    REQUIRE_FALSE(socket);
    CHECK(socket.error().message.find('\n') == std::string::npos);
    return socket.error().message;
  };
  CHECK_THAT(refused(fmt::format("{}:80", port)), Catch::Contains("in use") && Catch::Contains("ss -tlnp"));
  CHECK(bind_port(parse_publish(fmt::format("{}:80/udp", port)).value()));
  CHECK_THAT(refused("192.0.2.99:8080:80"), Catch::Contains("no address of this host"));
}
