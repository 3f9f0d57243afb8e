// Segments that no proper peer sends, and peers that go away.
#include "tests/unit/mmds/guest.h"

using namespace mayfly;
using namespace mayfly::mmds;
using namespace mayfly::test;
using std::chrono::seconds;

namespace {

// A connection made by hand.
struct HandMade {
  explicit HandMade(std::size_t large = 100) : network(make_service(document(large))) {}

  // The service's SYN; `seq` and `ack` are then where the guest stands.
  Tcp open(std::uint16_t from_port = 40000) {
    port = from_port;
    const auto answer = network.tell({.from_port = port, .seq = seq, .flags = kTcpSyn, .mss = 1460});
    REQUIRE(answer.size() == 1);
    CHECK(answer[0].flags == (kTcpSyn | kTcpAck));
    CHECK(answer[0].ack == seq + 1);
    ++seq;
    ack = answer[0].seq + 1;
    return answer[0];
  }
  void establish(std::uint16_t from_port = 40000) {
    open(from_port);
    CHECK(tell({}).empty());
  }
  std::vector<Tcp> tell(Tcp tcp) {
    tcp.from_port = port;
    if (tcp.seq == 0) tcp.seq = seq;
    if (tcp.ack == 0) tcp.ack = ack;
    return network.tell(tcp);
  }
  std::vector<Tcp> say(const std::string& text, std::uint16_t window = 65535) {
    auto answer = tell({.window = window, .payload = text});
    seq += static_cast<std::uint32_t>(text.size());
    return answer;
  }
  // That the connection lives: a request is answered.
  bool alive() {
    const auto answer = say(get("/a/b", ""));
    bool answered = false;
    for (const Tcp& tcp : answer) {
      answered = answered || tcp.payload.ends_with("text");
      ack = tcp.seq + static_cast<std::uint32_t>(tcp.payload.size());
    }
    tell({});
    return answered;
  }
  const Metrics& metrics() { return network.responder->metrics(); }
  std::uint64_t open_connections() { return metrics().connections_created - metrics().connections_destroyed; }

  Network network;
  std::uint16_t port = 0;
  std::uint32_t seq = 5000;
  std::uint32_t ack = 0;
};

bool is_reset(const std::vector<Tcp>& answer) {
  return answer.size() == 1 && (answer[0].flags & kTcpRst) != 0;
}
// An ACK and nothing else, that says where both stand.
bool is_challenge(const std::vector<Tcp>& answer, const HandMade& b) {
  return answer.size() == 1 && answer[0].flags == kTcpAck && answer[0].payload.empty() &&
         answer[0].ack == b.seq && answer[0].seq == b.ack;
}

}  // namespace

TEST_CASE("mmds hostile: segments of no connection are reset") {
  HandMade b;
  const auto acknowledged = b.network.tell({.seq = 1, .ack = 77, .payload = "x"});
  REQUIRE(is_reset(acknowledged));
  CHECK(acknowledged[0].seq == 77);
  CHECK(acknowledged[0].flags == kTcpRst);
  const auto other = b.network.tell({.seq = 10, .flags = kTcpFin, .payload = "abc"});
  REQUIRE(is_reset(other));
  CHECK(other[0].seq == 0);
  CHECK(other[0].ack == 14);
  CHECK(b.network.tell({.flags = kTcpRst}).empty());
  CHECK(b.network.tell({.flags = kTcpRst | kTcpAck}).empty());
  CHECK(is_reset(b.network.tell({.to_port = 81, .seq = 1, .flags = kTcpSyn})));
  CHECK(is_reset(b.network.tell({.seq = 1, .ack = 1, .flags = kTcpSyn | kTcpAck})));
  CHECK(b.metrics().connections_created == 0);
}

TEST_CASE("mmds hostile: no more resets wait than may") {
  HandMade b;
  for (int i = 0; i < 1000; ++i) b.network.responder->receive(tcp_frame({.seq = 1}), false, b.network.now);
  CHECK(b.network.heard().size() == kMostResets);
  CHECK(b.metrics().tx_errors == 1000 - kMostResets);
}

TEST_CASE("mmds hostile: a reset ends a connection only where it stands") {
  HandMade b;
  b.establish();
  CHECK(is_challenge(b.tell({.seq = b.seq + 1, .flags = kTcpRst}), b));
  CHECK(b.tell({.seq = b.seq - 1, .flags = kTcpRst}).empty());
  CHECK(b.tell({.seq = b.seq + 70000, .flags = kTcpRst}).empty());
  CHECK(b.alive());
  CHECK(b.tell({.flags = kTcpRst}).empty());
  CHECK(b.open_connections() == 0);
}

TEST_CASE("mmds hostile: a SYN does not touch a connection that is there") {
  HandMade b;
  b.establish();
  CHECK(is_challenge(b.tell({.flags = kTcpSyn}), b));
  CHECK(is_challenge(b.tell({.seq = 1, .flags = kTcpSyn}), b));
  CHECK(b.alive());
  CHECK(b.open_connections() == 1);
}

TEST_CASE("mmds hostile: sequence numbers outside the window, and acknowledgments of nothing") {
  HandMade b;
  b.establish();
  CHECK(is_challenge(b.tell({.seq = b.seq - 10, .payload = "x"}), b));
  CHECK(is_challenge(b.tell({.seq = b.seq + std::uint32_t{kReceiveBuffer}, .payload = "x"}), b));
  CHECK(is_challenge(b.tell({.ack = b.ack + 1, .payload = "x"}), b));
  CHECK(is_challenge(b.tell({.ack = b.ack - 100000, .payload = "x"}), b));
  // Inside, but not next.
  CHECK(is_challenge(b.tell({.seq = b.seq + 1, .payload = "x"}), b));
  CHECK(b.tell({.flags = 0, .payload = "x"}).empty());
  CHECK(b.alive());
}

TEST_CASE("mmds hostile: what overlaps is taken once") {
  HandMade b;
  b.establish();
  const std::string request = get("/a/b", "");
  b.say(request.substr(0, 10));
  b.seq -= 10;
  const auto answer = b.say(request);
  REQUIRE(answer.size() == 1);
  CHECK(answer[0].ack == b.seq);
  CHECK(answer[0].payload.ends_with("text"));
}

TEST_CASE("mmds hostile: a handshake that is answered wrongly is reset, and stays") {
  HandMade b;
  b.open();
  const auto answer = b.tell({.ack = b.ack + 5});
  REQUIRE(is_reset(answer));
  CHECK(answer[0].seq == b.ack + 5);
  CHECK(b.tell({}).empty());
  CHECK(b.alive());
}

TEST_CASE("mmds hostile: a SYN that comes again is answered again") {
  HandMade b;
  const auto first = b.open();
  --b.seq;
  const auto second = b.open();
  CHECK(first.seq == second.seq);
  CHECK(b.open_connections() == 1);
}

TEST_CASE("mmds hostile: a peer that never answers the handshake is forgotten") {
  HandMade b;
  b.open();
  b.network.pass(seconds(30));
  CHECK(b.open_connections() == 0);
  CHECK(b.metrics().tx_frames == 1 + kMostSynRetries);
  CHECK_FALSE(b.network.responder->deadline());
}

TEST_CASE("mmds hostile: a peer that goes away with an answer under way is forgotten") {
  HandMade b;
  b.establish();
  b.say(get("/a/b", ""));
  const auto before = b.metrics().tx_frames;
  b.network.pass(seconds(120));
  CHECK(b.open_connections() == 0);
  CHECK(b.metrics().tx_frames == before + kMostRetries + 1);  // the last is a reset
  CHECK_FALSE(b.network.responder->deadline());
}

TEST_CASE("mmds hostile: a window of none is asked about for as long as there are answers") {
  HandMade b(5000);
  b.establish();
  const auto answer = b.say(get("/large", ""), 0);
  REQUIRE(answer.size() == 1);
  CHECK(answer[0].payload.empty());
  std::size_t probes = 0;
  for (int i = 0; i < 100; ++i) {
    REQUIRE(b.network.responder->deadline());
    b.network.now = *b.network.responder->deadline();
    b.network.responder->tick(b.network.now);
    for (const Tcp& tcp : b.network.heard()) {
      CHECK(tcp.payload.size() == 1);
      CHECK(tcp.seq == b.ack);
      ++probes;
    }
    CHECK(b.tell({.window = 0}).empty());
  }
  CHECK(probes == 100);
  std::string text;
  auto more = b.tell({.window = 65535});
  while (!more.empty()) {
    for (const Tcp& tcp : more) {
      CHECK(tcp.seq == b.ack);
      text += tcp.payload;
      b.ack += static_cast<std::uint32_t>(tcp.payload.size());
    }
    more = b.tell({});
  }
  CHECK(body_of(text) == long_text(5000));
  CHECK(b.alive());
}

TEST_CASE("mmds hostile: a window of none that says nothing any more is given up") {
  HandMade b(5000);
  b.establish();
  b.say(get("/large", ""), 0);
  b.network.pass(std::chrono::minutes(5));
  CHECK(b.open_connections() == 0);
}

TEST_CASE("mmds hostile: never more than the peer's window is under way") {
  HandMade b(50000);
  b.establish();
  std::size_t under_way = 0;
  for (const Tcp& tcp : b.say(get("/large", ""), 10000)) under_way += tcp.payload.size();
  CHECK(under_way <= 10000);
  CHECK(under_way > 8000);
  b.network.pass(milliseconds(190));
  CHECK(b.network.heard().empty());
}

TEST_CASE("mmds hostile: what does not fit is not taken") {
  HandMade b(50000);
  b.establish();
  // The answer waits for a window, so nothing after it is read.
  b.say(get("/large", ""), 0);
  std::size_t taken = 0;
  for (int i = 0; i < 100; ++i) {
    const auto answer = b.tell({.window = 0, .payload = long_text(1000)});
    REQUIRE(answer.size() == 1);
    const std::uint32_t step = answer[0].ack - b.seq;
    CHECK(answer[0].window + taken + step == kReceiveBuffer);
    b.seq += step;
    taken += step;
  }
  CHECK(taken == kReceiveBuffer);
  // One segment that is larger than all of the window.
  HandMade other;
  other.establish();
  const auto answer = other.tell({.payload = long_text(60000)});
  REQUIRE_FALSE(answer.empty());
  CHECK(answer[0].ack == other.seq + kReceiveBuffer);
  CHECK(has_status(answer[0].payload, 431));
}

TEST_CASE("mmds hostile: a FIN that comes again is acknowledged again") {
  HandMade b;
  b.establish();
  auto answer = b.say(get("/a/b"));
  REQUIRE(answer.size() == 1);
  CHECK((answer[0].flags & kTcpFin) != 0);
  b.ack += static_cast<std::uint32_t>(answer[0].payload.size()) + 1;
  for (int i = 0; i < 3; ++i) {
    const auto again = b.tell({.flags = kTcpFin | kTcpAck});
    REQUIRE(again.size() == 1);
    CHECK(again[0].ack == b.seq + 1);
  }
  CHECK(b.open_connections() == 1);
  // From the same port a new connection may start at once.
  b.seq += 1000;
  b.establish();
  CHECK(b.alive());
  CHECK(b.open_connections() == 1);
}

TEST_CASE("mmds hostile: a peer that finishes first") {
  HandMade b;
  b.establish();
  auto answer = b.tell({.flags = kTcpFin | kTcpAck, .payload = get("/a/b", "")});
  REQUIRE(answer.size() == 1);
  CHECK(answer[0].payload.ends_with("text"));
  b.seq += static_cast<std::uint32_t>(get("/a/b", "").size()) + 1;
  CHECK(answer[0].ack == b.seq);
  b.ack += static_cast<std::uint32_t>(answer[0].payload.size());
  answer = b.tell({});
  REQUIRE(answer.size() == 1);
  CHECK((answer[0].flags & kTcpFin) != 0);
  ++b.ack;
  CHECK(b.tell({}).empty());
  CHECK(b.open_connections() == 0);
}

TEST_CASE("mmds hostile: half a request, and then the end") {
  HandMade b;
  b.establish();
  const auto answer = b.tell({.flags = kTcpFin | kTcpAck, .payload = "GET /a/b HT"});
  REQUIRE(answer.size() == 1);
  CHECK((answer[0].flags & kTcpFin) != 0);
  CHECK(answer[0].payload.empty());
}

TEST_CASE("mmds hostile: malformed requests end their connection, and no other") {
  for (const auto& [request, status] : {std::pair<std::string, int>{"\x16\x03\x01\x02\r\n\r\n", 400},
                                        {long_text(9000), 431},
                                        {"PUT / HTTP/1.1\r\nContent-Length: 9000\r\n\r\n", 413},
                                        {"GET / HTTP/3\r\n\r\n", 505},
                                        {"HEAD /a HTTP/1.1\r\nConnection: close\r\n\r\n", 405}}) {
    Network network(make_service(document()));
    Client& bad = network.add({.port = 1}, request);
    REQUIRE(network.run([&] { return bad.ended; }));
    CHECK(has_status(bad.received, status));
    CHECK_FALSE(bad.reset);
    Client& good = network.add({.port = 2}, get("/a/b"));
    REQUIRE(network.run([&] { return good.ended; }));
    CHECK(body_of(good.received) == "text");
  }
}

TEST_CASE("mmds hostile: a flood of SYNs") {
  HandMade b;
  b.establish();
  Ends ends;
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    ends.guest_ip = {10, 1, static_cast<std::uint8_t>(random()), static_cast<std::uint8_t>(random())};
    b.network.responder->receive(tcp_frame({.from_port = static_cast<std::uint16_t>(random()),
                                            .seq = static_cast<std::uint32_t>(random()),
                                            .flags = kTcpSyn},
                                           ends),
                                 false, b.network.now);
    CHECK(b.open_connections() <= 1 + kMostHalfOpen);
    // What it says to others is not looked at.
    for (int sent = 0; b.network.responder->wants_to_send() && sent < 2; ++sent) b.network.pull();
    b.network.now += microseconds(200);
    b.network.responder->tick(b.network.now);
  }
  while (b.network.responder->wants_to_send()) b.network.pull();
  CHECK(b.alive());
  CHECK(b.metrics().rx_accepted_unusual > 10000);
  // Once it is over, there is room again.
  b.network.now += seconds(1);
  for (std::uint16_t port = 1; port <= 20; ++port) {
    b.seq = 7000;
    b.establish(port);
    CHECK(b.alive());
  }
}

TEST_CASE("mmds hostile: idle connections make room, busy ones do not") {
  HandMade b;
  for (std::uint16_t i = 0; i < kMostConnections; ++i) {
    b.seq = 5000;
    b.establish(static_cast<std::uint16_t>(1000 + i));
  }
  CHECK(b.open_connections() == kMostConnections);
  CHECK(b.network.tell({.from_port = 1, .seq = 1, .flags = kTcpSyn}).empty());
  b.network.now += seconds(3);
  b.seq = 9000;
  b.establish(1);
  CHECK(b.alive());
  CHECK(b.open_connections() == kMostConnections);
}

TEST_CASE("mmds hostile: after a reset of the device there is nothing left") {
  HandMade b;
  b.establish();
  b.say(get("/a/b", ""));
  b.network.responder->receive(arp_request(), false, b.network.now);
  b.network.responder->reset();
  CHECK_FALSE(b.network.responder->wants_to_send());
  CHECK_FALSE(b.network.responder->deadline());
  CHECK(b.open_connections() == 0);
  CHECK(is_reset(b.tell({})));
}

TEST_CASE("mmds hostile: initial sequence numbers of two connections tell nothing of each other") {
  HandMade b;
  std::map<std::uint32_t, int> differences;
  std::uint32_t last = 0;
  for (std::uint16_t i = 0; i < 30; ++i) {
    b.seq = 5000;
    const std::uint32_t sequence = b.open(static_cast<std::uint16_t>(1000 + i)).seq;
    ++differences[sequence - last];
    last = sequence;
  }
  CHECK(differences.size() == 30);
  HandMade other;
  CHECK(other.open(1000).seq != b.open(2000).seq);
}
