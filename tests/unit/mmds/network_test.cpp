// Requests over networks of every kind.
#include "tests/unit/mmds/guest.h"

using namespace mayfly;
using namespace mayfly::mmds;
using namespace mayfly::test;

TEST_CASE("mmds: a request, its answer, and the end of both") {
  Network network(make_service(document()));
  Client& client = network.add({.finish = true}, get("/a/b"));
  REQUIRE(network.run([&] { return client.finished(); }));
  CHECK(has_status(client.received, 200));
  CHECK(body_of(client.received) == "text");
  CHECK_FALSE(client.reset);
  network.pass(std::chrono::seconds(2));
  CHECK(network.responder->metrics().connections_created == 1);
  CHECK(network.responder->metrics().connections_destroyed == 1);
  CHECK_FALSE(network.responder->deadline());
}

TEST_CASE("mmds: a connection serves one request after another") {
  Network network(make_service(document()));
  Client& client = network.add({}, get("/a/b", ""));
  for (std::size_t i = 1; i <= 20; ++i) {
    const std::size_t before = client.received.size();
    REQUIRE(network.run([&] {
      return client.received.ends_with("text") && client.received.size() > before - (i == 1 ? before : 0);
    }));
    client.received.clear();
    CHECK_FALSE(client.ended);
    client.send(i < 20 ? get("/a/b", "") : get("/a/b"));
  }
  REQUIRE(network.run([&] { return client.ended; }));
  CHECK(client.received.ends_with("text"));
}

TEST_CASE("mmds: requests in one segment are answered in their order") {
  Network network(make_service(document()));
  std::string requests;
  for (int i = 0; i < 30; ++i) requests += get(i % 2 == 0 ? "/a/b" : "/a", "");
  Client& client = network.add({}, requests + get("/nothing"));
  REQUIRE(network.run([&] { return client.ended; }));
  std::string rest = client.received;
  for (int i = 0; i < 30; ++i) {
    const std::string body = i % 2 == 0 ? "text" : "b";
    const std::size_t end = rest.find("\r\n\r\n") + 4;
    REQUIRE(has_status(rest, 200));
    REQUIRE(rest.substr(end, body.size()) == body);
    rest.erase(0, end + body.size());
  }
  CHECK(has_status(rest, 404));
}

TEST_CASE("mmds: bad weather changes nothing but the time") {
  const std::string large = long_text(50000);
  const auto service = make_service(document(50000));
  const std::vector<Weather> weathers = {{.lost = 10},
                                         {.lost = 30},
                                         {.doubled = 50},
                                         {.delayed = 60},
                                         {.lost = 10, .doubled = 20, .delayed = 40}};
  for (const Weather& weather : weathers) {
    for (unsigned seed = 1; seed <= 20; ++seed) {
      CAPTURE(weather.lost, weather.doubled, weather.delayed, seed);
      Network network(service, weather, seed);
      Client& client = network.add({.finish = seed % 2 == 0}, get("/large"));
      REQUIRE(network.run([&] { return client.ended && client.idle(); }, std::chrono::hours(1)));
      REQUIRE(body_of(client.received) == large);
      REQUIRE_FALSE(client.reset);
    }
  }
}

TEST_CASE("mmds: a request in segments of one byte") {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    Network network(make_service(document()), {.lost = seed > 3 ? 5U : 0U, .delayed = seed > 6 ? 20U : 0U},
                    seed);
    Client& client = network.add({.segment = 1}, get("/a/b"));
    REQUIRE(network.run([&] { return client.ended; }, std::chrono::hours(1)));
    REQUIRE(body_of(client.received) == "text");
  }
}

TEST_CASE("mmds: peers that take tiny segments, or little at once") {
  for (const unsigned mss : {0U, 1U, 28U, 536U, 1459U}) {
    for (const std::uint32_t window : {1U, 100U, 3000U}) {
      CAPTURE(mss, window);
      Network network(make_service(document(2000)));
      Client& client = network.add({.mss = static_cast<std::uint16_t>(mss), .window = window}, get("/large"));
      REQUIRE(network.run([&] { return client.ended; }));
      REQUIRE(body_of(client.received) == long_text(2000));
    }
  }
}

TEST_CASE("mmds: sequence numbers wrap") {
  for (std::uint32_t i = 0; i < 200; i += 7) {
    Network network(make_service(document(5000)), {.lost = 10}, i + 1);
    // The guest's wrap somewhere in its request; ours are anywhere, so half of them have their sign change
    // early.
    Client& client = network.add({.sequence = 0U - i, .segment = 10}, get("/large"));
    REQUIRE(network.run([&] { return client.ended; }));
    REQUIRE(body_of(client.received) == long_text(5000));
  }
}

TEST_CASE("mmds: a thousand connections, one after another") {
  Network network(make_service(document()));
  for (std::uint16_t i = 0; i < 1000; ++i) {
    // Every tenth comes from a port that was used just before.
    Client& client = network.add({.port = static_cast<std::uint16_t>(30000 + i % 900),
                                  .sequence = 1000U + i * 100000U,
                                  .finish = i % 2 == 0},
                                 get("/a/b"));
    REQUIRE(network.run([&] { return client.ended && (i % 2 != 0 || client.finished()); }));
    REQUIRE(body_of(client.received) == "text");
    client.finish();
    network.run([&] { return client.finished(); });
    network.clients.clear();
  }
  CHECK(network.responder->metrics().connections_created == 1000);
}

TEST_CASE("mmds: a thousand connections at once") {
  Network network(make_service(document()), {.lost = 1}, 3);
  for (std::uint16_t i = 0; i < 1000; ++i) {
    network.add({.port = static_cast<std::uint16_t>(30000 + i), .finish = true}, get("/a/b"));
  }
  std::size_t most = 0;
  REQUIRE(network.run(
      [&] {
        const auto& metrics = network.responder->metrics();
        most = std::max<std::size_t>(most, metrics.connections_created - metrics.connections_destroyed);
        return std::ranges::all_of(network.clients,
                                   [](const auto& client) { return client->ended || client->reset; });
      },
      std::chrono::hours(2)));
  CHECK(most <= kMostConnections);
  CHECK(most > kMostConnections / 4);
  for (const auto& client : network.clients) {
    REQUIRE_FALSE(client->reset);
    REQUIRE(body_of(client->received) == "text");
  }
}

TEST_CASE("mmds: a guest without receive buffers is waited for, with bounded memory") {
  Network network(make_service(document()));
  network.guest_has_buffers = false;
  for (std::uint16_t i = 0; i < 200; ++i) {
    network.add({.port = static_cast<std::uint16_t>(30000 + i), .finish = true}, get("/a/b"));
  }
  network.pass(std::chrono::seconds(10));
  CHECK(network.responder->metrics().tx_frames == 0);
  network.guest_has_buffers = true;
  REQUIRE(network.run([&] {
    return std::ranges::all_of(network.clients, [](const auto& client) { return client->ended; });
  }));
}

TEST_CASE("mmds: version 2 over the network") {
  Network network(make_service(document(), Version::kV2));
  Client& refused = network.add({.port = 1}, get("/a/b"));
  Client& asking = network.add(
      {.port = 2},
      "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\nConnection: close\r\n\r\n");
  REQUIRE(network.run([&] { return refused.ended && asking.ended; }));
  CHECK(has_status(refused.received, 401));
  const std::string token = body_of(asking.received);
  Client& client =
      network.add({.port = 3}, get("/a/b", "Connection: close\r\nX-metadata-token: " + token + "\r\n"));
  REQUIRE(network.run([&] { return client.ended; }));
  CHECK(body_of(client.received) == "text");
  CHECK(network.responder->metrics().rx_no_token == 1);
}
