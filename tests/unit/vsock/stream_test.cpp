// Single connections, from both sides, in good order and in bad.
#include <catch2/catch.hpp>

#include "tests/unit/vsock/guest.h"
#include "tests/unit/vsock/host.h"

namespace mayfly::test {

using vsock::Header;
using vsock::kShutdownBoth;
using vsock::kShutdownReceive;
using vsock::kShutdownSend;
using vsock::Op;
using namespace std::chrono_literals;

namespace {

// A connection that the guest made to a listening host program.
struct FromGuest {
  explicit FromGuest(const GuestOptions& options = {})
      : driver(options),
        listener(driver.uds_path(52)),
        sockets(driver),
        guest(sockets.connect(52)),
        host(listener.accept()) {}

  // The connection is over, and the device has forgotten it.
  void wait_for_end() {
    sockets.run_until([&] { return driver.connections() == 0; }, "the end of the connection");
  }

  Driver driver;
  HostListener listener;
  SocketLayer sockets;
  GuestSocket& guest;
  HostSocket host;
};

// A connection that a host program made to the guest's port 1234.
struct FromHost {
  explicit FromHost(std::string_view said = "CONNECT 1234\n", const GuestOptions& options = {})
      : driver(options), sockets(driver), host(HostSocket::connect(driver.uds_path())) {
    sockets.listen([this](GuestSocket& socket) { guest = &socket; });
    host.write(said);
    sockets.run_until([&] { return guest != nullptr; }, "a request");
    driver.kick();
  }

  Driver driver;
  SocketLayer sockets;
  HostSocket host;
  GuestSocket* guest = nullptr;
};

}  // namespace

TEST_CASE("Bytes flow both ways on a connection of the guest's") {
  FromGuest c;
  REQUIRE(c.guest.connected);
  c.sockets.write(c.guest, "to the host");
  c.sockets.turn();
  CHECK(c.host.read(11) == "to the host");
  c.host.write("to the guest");
  c.sockets.run_until([&] { return c.guest.read == "to the guest"; }, "the answer");
  const vsock::Counters counters = c.driver.counters();
  CHECK(counters.connections_from_guest == 1);
  CHECK(counters.bytes_from_guest == 11);
  CHECK(counters.bytes_to_guest == 12);
}

TEST_CASE("Bytes flow both ways on a connection of the host's, from the newline on") {
  FromHost c("CONNECT 1234\nearly");
  CHECK(c.guest->ports.guest == 1234);
  CHECK(c.host.read_line() == "OK " + std::to_string(c.guest->ports.host) + "\n");
  c.sockets.run_until([&] { return c.guest->read == "early"; }, "what followed the line");
  c.host.write(" late");
  c.sockets.run_until([&] { return c.guest->read == "early late"; }, "more");
  c.sockets.write(*c.guest, "answer");
  c.sockets.turn();
  CHECK(c.host.read(6) == "answer");
  CHECK(c.driver.counters().connections_from_host == 1);
}

TEST_CASE("A line that comes byte by byte is a line") {
  Driver driver;
  SocketLayer sockets(driver);
  bool accepted = false;
  sockets.listen([&](GuestSocket& socket) { accepted = socket.ports.guest == 77; });
  const HostSocket host = HostSocket::connect(driver.uds_path());
  for (const char c : std::string("CONNECT 77\nx")) {
    host.write(std::string(1, c));
    std::this_thread::sleep_for(1ms);
  }
  sockets.run_until([&] { return accepted; }, "a request");
  driver.kick();
  CHECK(host.read_line().starts_with("OK "));
}

TEST_CASE("A program that does not say CONNECT is hung up on") {
  Driver driver({.limits = {.connect_line = 100ms}});
  SocketLayer sockets(driver);
  sockets.listen([](GuestSocket&) { FAIL("a request"); });
  std::uint64_t bad = 0;
  for (const std::string_view said :
       {"\n", "CONNECT\n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT -5\n", "GET / HTTP/1.1\r\n\r\n",
        "CONNECT 1234", "CONNECT 00000000000000000000000000000000000000000000001234\n", ""}) {
    INFO(said);
    const HostSocket host = HostSocket::connect(driver.uds_path());
    host.write(said);
    CHECK(host.read(1).empty());
    CHECK(driver.counters().bad_connect_lines == ++bad);
  }
  sockets.turn();
  CHECK(driver.connections() == 0);
}

TEST_CASE("A program that floods the line is hung up on") {
  Driver driver;
  const HostSocket host = HostSocket::connect(driver.uds_path());
  host.write(std::string(100'000, 'x'));
  CHECK(host.read(1).empty());
  wait_until([&] { return driver.connections() == 0; }, "the end");
}

TEST_CASE("A program that goes before its line is finished is forgotten") {
  Driver driver;
  for (const std::string_view said : {"", "CONNECT", "CONNECT 12"}) {
    HostSocket host = HostSocket::connect(driver.uds_path());
    host.write(said);
    host.close();
  }
  wait_until([&] { return driver.counters().bad_connect_lines == 3; }, "the three of them");
  CHECK(driver.connections() == 0);
}

TEST_CASE("A port no one listens on in the guest is an end of file for the program") {
  Driver driver;
  const HostSocket host = HostSocket::connect(driver.uds_path());
  host.write("CONNECT 52\nlost");
  const Packet request = driver.receive();
  REQUIRE(op_of(request) == Op::kRequest);
  CHECK(request.header.dst_port == 52);
  driver.send(guest_header(Op::kRst, 52, request.header.src_port));
  CHECK(host.read(1).empty());
  CHECK(driver.counters().refused_from_host == 1);
}

TEST_CASE("A guest that does not answer a request is given up") {
  Driver driver({.limits = {.guest_answer = 50ms}});
  const HostSocket host = HostSocket::connect(driver.uds_path());
  host.write("CONNECT 52\n");
  const Packet request = driver.receive();
  REQUIRE(op_of(request) == Op::kRequest);
  CHECK(op_of(driver.receive()) == Op::kRst);
  CHECK(host.read(1).empty());
  CHECK(driver.counters().refused_from_host == 1);
  driver.send(guest_header(Op::kResponse, 52, request.header.src_port));
  CHECK(op_of(driver.receive()) == Op::kRst);
}

TEST_CASE("A request that never reached the guest is given up without a word") {
  Driver driver({.limits = {.guest_answer = 50ms}, .receive_buffers = 0});
  const HostSocket host = HostSocket::connect(driver.uds_path());
  host.write("CONNECT 52\n");
  CHECK(host.read(1).empty());
  driver.provide(4);
  driver.send(guest_header(Op::kRw, 9, 9));
  CHECK(driver.receive().header.dst_port == 9);
}

TEST_CASE("A program that writes and closes at once is heard in full") {
  FromHost c;
  std::string said;
  SECTION("closes") {}
  SECTION("writes, then closes") {
    said = "hello";
  }
  c.host.write(said);
  c.host.close();  // without having read the OK line
  c.sockets.run_until([&] { return c.guest->peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
  CHECK(c.guest->read == said);
}

TEST_CASE("A program that is gone before the guest answers is still heard") {
  Driver driver;
  HostSocket host = HostSocket::connect(driver.uds_path());
  host.write("CONNECT 52\nhello");
  const Packet request = driver.receive();
  host.close();
  driver.send(guest_header(Op::kResponse, 52, request.header.src_port));
  std::string heard;
  std::uint32_t flags = 0;
  while (flags != kShutdownBoth) {
    const Packet packet = driver.receive();
    heard += packet.payload;
    if (op_of(packet) == Op::kShutdown) flags = packet.header.flags;
  }
  CHECK(heard == "hello");
  driver.send(guest_header(Op::kRst, 52, request.header.src_port));
  wait_until([&] { return driver.connections() == 0; }, "the end");
}

TEST_CASE("The guest's half-close is an end of file, and the other direction goes on") {
  FromGuest c;
  c.sockets.write(c.guest, "question");
  c.sockets.turn();
  c.sockets.shutdown(c.guest, kShutdownSend);
  c.sockets.turn();
  CHECK(c.host.read_all() == "question");
  c.host.write("answer");
  c.sockets.run_until([&] { return c.guest.read == "answer"; }, "the answer");
  CHECK_FALSE(c.guest.reset);
  SECTION("the guest closes") {
    c.sockets.close(c.guest);
    c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  }
  SECTION("the host closes") {
    c.host.close();
    c.sockets.run_until([&] { return c.guest.peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
    c.driver.send(guest_header(Op::kRst, c.guest.ports.guest, 52));
  }
  SECTION("the host shuts its side down") {
    c.host.shut_write();
    c.sockets.run_until([&] { return c.guest.peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
    c.driver.send(guest_header(Op::kRst, c.guest.ports.guest, 52));
  }
  c.wait_for_end();
}

TEST_CASE("The host's half-close is SHUTDOWN, and the other direction goes on") {
  FromGuest c;
  c.host.write("question");
  c.host.shut_write();
  c.sockets.run_until([&] { return c.guest.peer_shutdown == kShutdownSend; }, "SHUTDOWN");
  CHECK(c.guest.read == "question");
  c.sockets.write(c.guest, "answer");
  c.sockets.turn();
  CHECK(c.host.read(6) == "answer");
  c.sockets.close(c.guest);
  c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  CHECK(c.host.read(1).empty());
  c.wait_for_end();
}

TEST_CASE("A guest that reads no more lets the host's writes fail") {
  FromGuest c;
  c.sockets.shutdown(c.guest, kShutdownReceive);
  c.sockets.turn();
  wait_until([&] { return !c.host.write("x"); }, "EPIPE");
  c.sockets.write(c.guest, "still sending");
  c.sockets.turn();
  CHECK(c.host.read(13) == "still sending");
  c.host.close();
  c.sockets.run_until([&] { return c.guest.peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
}

TEST_CASE("A host program that reads no more is told to the guest, and may go on writing") {
  FromGuest c;
  c.host.shut_read();
  wait_until(
      [&] {
        if (c.guest.peer_shutdown == 0) c.sockets.write(c.guest, "x");
        c.sockets.turn();
        return c.guest.peer_shutdown == kShutdownReceive;
      },
      "SHUTDOWN");
  c.host.write("still sending");
  c.sockets.run_until([&] { return c.guest.read == "still sending"; }, "data");
  // Data that was on its way is no fault of the guest's.
  c.sockets.write(c.guest, "lost");
  c.sockets.turn();
  CHECK_FALSE(c.guest.reset);
}

TEST_CASE("A host program that closes with unread data ends the connection, its own data arrives") {
  FromGuest c;
  c.sockets.write(c.guest, "never read");
  c.sockets.turn();
  c.host.write("last words");
  c.host.close();
  c.sockets.run_until([&] { return c.guest.peer_shutdown == kShutdownBoth; }, "SHUTDOWN");
  CHECK(c.guest.read == "last words");
}

TEST_CASE("A closed connection that the guest does not reset is reset for it") {
  FromGuest c({.limits = {.guest_reset = 50ms}});
  c.host.close();
  c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  CHECK(c.guest.peer_shutdown == kShutdownBoth);
  CHECK(c.driver.connections() == 0);
  CHECK(c.driver.counters().close_timeouts == 1);
}

TEST_CASE("A guest that closes is answered at once, and all it sent still arrives") {
  FromGuest c;
  std::string sent;
  // More than the socket holds, so that some of it waits in the device.
  while (c.guest.out.empty()) {
    const std::string part(50'000, static_cast<char>('a' + sent.size() / 50'000 % 26));
    sent += part;
    c.sockets.write(c.guest, part);
    while (c.sockets.turn()) {
    }
  }
  sent.resize(sent.size() - c.guest.out.size());
  c.guest.out.clear();
  bool by_reset = false;
  SECTION("SHUTDOWN") {
    c.sockets.close(c.guest);
    c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  }
  SECTION("RST") {
    by_reset = true;
    c.driver.send(guest_header(Op::kRst, c.guest.ports.guest, 52));
  }
  CHECK(c.driver.connections() == 1);
  CHECK(c.host.read_all() == sent);
  c.wait_for_end();
  CHECK(c.driver.counters().resets_received == (by_reset ? 1 : 0));
}

TEST_CASE("The ports of a connection that is still draining may be used again") {
  FromGuest c;
  c.sockets.write(c.guest, std::string(2U << 20U, 'x'));
  while (c.sockets.turn()) {
  }
  const std::uint32_t port = c.guest.ports.guest;
  c.sockets.close(c.guest);
  c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  REQUIRE(c.driver.connections() == 1);
  GuestSocket& again = c.sockets.connect(52, port);
  REQUIRE(again.connected);
  const HostSocket host = c.listener.accept();
  c.sockets.write(again, "new");
  c.sockets.turn();
  CHECK(host.read(3) == "new");
  c.host.close();
  wait_until([&] { return c.driver.connections() == 1; }, "the end of the old one");
}

TEST_CASE("A guest that sends more than it may is reset") {
  FromGuest c;
  std::uint32_t sent = 0;
  std::optional<Packet> packet;
  while (!packet || op_of(*packet) != Op::kRst) {
    REQUIRE(sent < 64);
    const std::string payload(vsock::kMaxPayload, 'x');
    c.driver.send(guest_header(Op::kRw, c.guest.ports.guest, 52, vsock::kMaxPayload), payload);
    ++sent;
    packet = c.driver.poll();
  }
  CHECK(sent * vsock::kMaxPayload > vsock::kBufferSize);
  CHECK(c.driver.counters().protocol_violations == 1);
  CHECK(c.driver.connections() == 0);
}

TEST_CASE("A guest without room gets nothing until it says so") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  Header request = guest_header(Op::kRequest, 1000, 52);
  request.buf_alloc = 0;
  driver.send(request);
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  host.write("0123456789abcdef");
  CHECK(op_of(driver.receive()) == Op::kCreditRequest);
  Header update = guest_header(Op::kCreditUpdate, 1000, 52);
  update.buf_alloc = 0;
  driver.send(update);
  update.buf_alloc = 10;
  driver.send(update);
  const Packet first = driver.receive();
  CHECK(op_of(first) == Op::kRw);
  CHECK(first.payload == "0123456789");
  CHECK(op_of(driver.receive()) == Op::kCreditRequest);
  update.fwd_cnt = 4;
  driver.send(update);
  CHECK(driver.receive().payload == "abcd");
  CHECK(op_of(driver.receive()) == Op::kCreditRequest);
  update.fwd_cnt = 14;
  driver.send(update);
  CHECK(driver.receive().payload == "ef");
}

TEST_CASE("A full backlog refuses the guest") {
  Driver driver;
  const HostListener listener(driver.uds_path(52), 0);
  SocketLayer sockets(driver);
  bool refused = false;
  for (int i = 0; i < 4 && !refused; ++i) refused = sockets.connect(52).reset;
  CHECK(refused);
  const HostSocket first = listener.accept();
  CHECK(driver.counters().refused_from_guest >= 1);
}

TEST_CASE("No more connections than the limit: the guest is refused, host programs wait") {
  Driver driver({.limits = {.connections = 3}});
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket* from_host = nullptr;
  sockets.listen([&](GuestSocket& socket) { from_host = &socket; });
  GuestSocket& first = sockets.connect(52);
  sockets.connect(52);
  sockets.connect(52);
  CHECK(sockets.connect(52).reset);
  const HostSocket program = HostSocket::connect(driver.uds_path());
  program.write("CONNECT 7\n");
  CHECK(sockets.connect(52).reset);
  CHECK(from_host == nullptr);
  CHECK(driver.connections() == 3);
  sockets.close(first);
  sockets.run_until([&] { return from_host != nullptr; }, "the program's turn");
  driver.kick();
  CHECK(program.read_line().starts_with("OK "));
  CHECK(driver.connections() == 3);
}

TEST_CASE("An RST that waits is not for the next connection between the same ports") {
  Driver driver({.receive_buffers = 0});
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRw, 1000, 52));
  driver.send(guest_header(Op::kRw, 1001, 52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  driver.provide(4);
  const Packet reset = driver.receive();
  CHECK(op_of(reset) == Op::kRst);
  CHECK(reset.header.dst_port == 1001);
  const Packet response = driver.receive();
  CHECK(op_of(response) == Op::kResponse);
  CHECK(response.header.dst_port == 1000);
}

TEST_CASE("REQUEST for a connection that exists resets it") {
  FromGuest c;
  c.driver.send(guest_header(Op::kRequest, c.guest.ports.guest, 52));
  c.sockets.run_until([&] { return c.guest.reset; }, "RST");
  CHECK(c.host.read(1).empty());
}

TEST_CASE("A reset device drops its connections and serves new ones") {
  FromGuest c;
  c.host.write("in flight");
  const HostSocket unfinished = HostSocket::connect(c.driver.uds_path());
  unfinished.write("CONNECT");
  wait_until([&] { return c.driver.connections() == 2; }, "the unfinished program");
  c.driver.reset();
  CHECK(c.driver.connections() == 0);
  CHECK(c.host.read(1).empty());
  CHECK(unfinished.read(1).empty());

  const HostSocket early = HostSocket::connect(c.driver.uds_path());
  early.write("CONNECT 1234\n");
  c.driver.activate();
  const Packet request = c.driver.receive();
  REQUIRE(op_of(request) == Op::kRequest);
  c.driver.send(guest_header(Op::kResponse, 1234, request.header.src_port));
  CHECK(early.read_line().starts_with("OK "));
}

TEST_CASE("Nothing is lost when the receive queue runs empty") {
  Driver driver({.receive_buffers = 1, .receive_size = 100, .reuse_receive_buffers = false});
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  std::string sent;
  for (int i = 0; i < 300; ++i) sent += std::to_string(i);
  host.write(sent);
  std::string got;
  while (got.size() < sent.size()) {
    driver.provide(1);
    got += driver.receive().payload;
  }
  CHECK(got == sent);
}

}  // namespace mayfly::test
