#include "api/http_server.h"

#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/unique_fd.h"
#include "tests/support/eventually.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/api/http_bytes.h"

using namespace mayfly;
using namespace mayfly::api;
using Catch::Contains;
using test::http_get;
using test::http_put;

namespace {

constexpr std::size_t kLargestBody = 50000;

// What a client sees of one connection.
class Client {
 public:
  explicit Client(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof(address.sun_path) - 1);
    connected_ = ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    const timeval deadline{.tv_sec = test::kDeadline.count(), .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof(deadline));
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &deadline, sizeof(deadline));
  }
  [[nodiscard]] bool connected() const { return connected_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  bool send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  // Up to and with `end`; what there was when the connection ended before.
  std::string receive_until(std::string_view end) {
    std::size_t at = std::string::npos;
    while ((at = pending_.find(end)) == std::string::npos && receive_some()) continue;
    const std::size_t size = at == std::string::npos ? pending_.size() : at + end.size();
    std::string got = pending_.substr(0, size);
    pending_.erase(0, size);
    return got;
  }
  // Until the server ends the connection.
  std::string receive_all() {
    while (receive_some()) continue;
    return std::exchange(pending_, {});
  }
  void close() { fd_.reset(); }

 private:
  bool receive_some() {
    std::array<char, 65536> part;
    const ssize_t n = ::recv(fd_.get(), part.data(), part.size(), 0);
    if (n > 0) pending_.append(part.data(), static_cast<std::size_t>(n));
    return n > 0;
  }
  base::UniqueFd fd_;
  bool connected_ = false;
  std::string pending_;
};

// Answers with "<path>:<size of the body>;", and /large with a megabyte.
struct Server {
  test::TemporaryFolder folder;
  std::string path = folder.path("api.sock");
  std::atomic<int> asked = 0;
  std::unique_ptr<HttpServer> server = make();

  std::unique_ptr<HttpServer> make() {
    auto made = HttpServer::create(path, kLargestBody, [this](const HttpRequest& request) {
      ++asked;
      if (request.path == "/large") return HttpResponse{.content = std::string(1U << 20U, 'l') + ";"};
      return HttpResponse{.content =
                              std::string(request.path) + ":" + std::to_string(request.body.size()) + ";"};
    });
    if (!made) FAIL(made.error().message);
    return std::move(*made);
  }
};

}  // namespace

TEST_CASE("the socket is there while the server is") {
  Server s;
  CHECK(std::filesystem::is_socket(s.path));
  // Nothing else was left beside it.
  CHECK(std::distance(std::filesystem::directory_iterator(s.folder.path("")), {}) == 1);
  const auto second =
      HttpServer::create(s.path, kLargestBody, [](const HttpRequest&) { return HttpResponse{}; });
  REQUIRE_FALSE(second.has_value());
  CHECK_THAT(second.error().message, Contains(s.path) && Contains("exists already"));
  Client client(s.path);
  REQUIRE(client.send(http_get("/a")));
  CHECK_THAT(client.receive_until(";"), Contains("\r\n\r\n/a:0;"));
  s.server.reset();
  CHECK(client.receive_all().empty());
  CHECK_FALSE(std::filesystem::exists(s.path));
}

TEST_CASE("a socket that cannot be is refused by name") {
  const test::TemporaryFolder folder;
  const auto refused = [](const std::string& path) {
    const auto server = HttpServer::create(path, 1, [](const HttpRequest&) { return HttpResponse{}; });
    REQUIRE_FALSE(server.has_value());
    return server.error().message;
  };
  CHECK_THAT(refused(folder.path("none/api.sock")), Contains("none/api.sock") && Contains("No such file"));
  CHECK_THAT(refused("/" + std::string(200, 'x')), Contains("1 to 107 bytes, and this one 201"));
  CHECK_THAT(refused(""), Contains("this one 0"));
}

TEST_CASE("requests that are sent together are answered in their order") {
  Server s;
  Client client(s.path);
  std::string all;
  constexpr int kRequests = 500;
  for (int i = 0; i < kRequests; ++i)
    all += http_put("/" + std::to_string(i), std::string(static_cast<std::size_t>(i), 'b'));
  std::thread sender([&] { client.send(all); });
  for (int i = 0; i < kRequests; ++i) {
    REQUIRE_THAT(client.receive_until(";"),
                 Catch::EndsWith("\r\n\r\n/" + std::to_string(i) + ":" + std::to_string(i) + ";"));
  }
  sender.join();
}

TEST_CASE("a request may come a byte at a time, while others are served") {
  Server s;
  Client slow(s.path);
  Client fast(s.path);
  const std::string request = http_put("/slow", "0123456789");
  for (const char byte : request) {
    REQUIRE(slow.send(std::string(1, byte)));
    REQUIRE(fast.send(http_get("/fast")));
    REQUIRE_THAT(fast.receive_until(";"), Catch::EndsWith("/fast:0;"));
  }
  CHECK_THAT(slow.receive_until(";"), Catch::EndsWith("/slow:10;"));
}

TEST_CASE("a client that sends no more is still answered") {
  Server s;
  Client client(s.path);
  REQUIRE(client.send(http_get("/a") + http_put("/b", "123")));
  ::shutdown(client.fd(), SHUT_WR);
  CHECK_THAT(client.receive_all(), Contains("/a:0;") && Catch::EndsWith("/b:3;"));
}

TEST_CASE("a client that ends in the middle of a request is forgotten") {
  Server s;
  Client client(s.path);
  REQUIRE(client.send(http_put("/a", "123").substr(0, 30)));
  ::shutdown(client.fd(), SHUT_WR);
  CHECK(client.receive_all().empty());
  CHECK(s.asked == 0);
}

TEST_CASE("the answer to what is too large arrives, however much is sent after it") {
  Server s;
  Client client(s.path);
  REQUIRE(client.send("PUT /a HTTP/1.1\r\nContent-Length: 1073741824\r\n\r\n"));
  // Up to a gigabyte: at some point the server takes no more.
  std::thread sender([&] {
    const std::string part(1U << 20U, 'x');
    for (int i = 0; i < 1024 && client.send(part); ++i) continue;
  });
  CHECK_THAT(client.receive_until("}"), Contains("HTTP/1.1 413") && Contains("1073741824"));
  sender.join();
  CHECK(s.asked == 0);
}

TEST_CASE("a client that does not read makes nobody wait, and nothing more is read from it") {
  Server s;
  Client silent(s.path);
  // Far more than what the sockets' buffers take.
  int sent = 0;
  while (sent < 100000 && ::send(silent.fd(), http_get("/large").data(), http_get("/large").size(),
                                 MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    ++sent;
  }
  Client other(s.path);
  REQUIRE(other.send(http_get("/a")));
  CHECK_THAT(other.receive_until(";"), Catch::EndsWith("/a:0;"));
  CHECK(s.asked <= 5);
  // Nothing is lost when it reads after all.
  CHECK(silent.receive_until(";").size() > (1U << 20U));
}

TEST_CASE("a thousand clients at once are served, the idle ones give way") {
  Server s;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 1000; ++i) {
    clients.push_back(std::make_unique<Client>(s.path));
    REQUIRE(clients.back()->connected());
    REQUIRE(clients.back()->send(http_get("/" + std::to_string(i))));
  }
  for (int i = 0; i < 1000; ++i) {
    REQUIRE_THAT(clients[static_cast<std::size_t>(i)]->receive_until(";"),
                 Catch::EndsWith("/" + std::to_string(i) + ":0;"));
  }
  CHECK(s.asked == 1000);
}

TEST_CASE("clients that never finish their requests give way to others in the end") {
  Server s;
  std::vector<std::unique_ptr<Client>> clients;
  for (std::size_t i = 0; i < HttpServer::kMostConnections; ++i) {
    clients.push_back(std::make_unique<Client>(s.path));
    REQUIRE(clients.back()->send("PUT /a HTTP/1.1\r\n"));
  }
  Client late(s.path);
  REQUIRE(late.send(http_get("/late")));
  CHECK_THAT(late.receive_until(";"), Catch::EndsWith("/late:0;"));
}

TEST_CASE("a server may end in the middle of everything") {
  for (int i = 0; i < 20; ++i) {
    auto s = std::make_unique<Server>();
    std::vector<std::thread> threads;
    for (int n = 0; n < 4; ++n) {
      threads.emplace_back([path = s->path] {
        Client client(path);
        while (client.send(http_get("/large")) && !client.receive_until(";").empty()) continue;
      });
    }
    test::eventually([&] { return s->asked > 4; });
    s->server.reset();
    for (std::thread& thread : threads) thread.join();
  }
}
