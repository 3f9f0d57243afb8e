#include "virtio/vsock/connection.h"

#include <catch2/catch.hpp>

#include "tests/unit/vsock/guest.h"

namespace mayfly::test {

using vsock::Connection;
using vsock::Header;
using vsock::kBufferSize;
using vsock::Op;
using Action = vsock::Connection::Action;

namespace {

Header packet(Op op, std::uint32_t length = 0, std::uint32_t flags = 0) {
  Header header = guest_header(op, 1000, 52, length);
  header.flags = flags;
  return header;
}

Connection open_connection() {
  Connection connection = Connection::requested_by_guest(packet(Op::kRequest));
  connection.stamp(Op::kResponse, 0);
  return connection;
}

}  // namespace

TEST_CASE("A request of the guest's is owed RESPONSE before anything else") {
  Connection connection = Connection::requested_by_guest(packet(Op::kRequest));
  CHECK(connection.sendable() == 0);
  connection.host_writes_no_more();
  REQUIRE(connection.owed() == Op::kResponse);
  const Header response = connection.stamp(Op::kResponse, 0);
  CHECK(response.src_cid == vsock::kHostCid);
  CHECK(response.dst_cid == kGuestCid);
  CHECK(response.src_port == 52);
  CHECK(response.dst_port == 1000);
  CHECK(response.buf_alloc == kBufferSize);
  CHECK(response.type == vsock::kTypeStream);
  CHECK(connection.owed() == Op::kShutdown);
}

TEST_CASE("A request of the host's waits for RESPONSE") {
  Connection connection = Connection::requested_by_host(kGuestCid, {.host = 7, .guest = 52});
  CHECK_FALSE(connection.known_to_guest());
  REQUIRE(connection.owed() == Op::kRequest);
  connection.stamp(Op::kRequest, 0);
  CHECK(connection.known_to_guest());
  CHECK_FALSE(connection.owed());
  CHECK(connection.sendable() == 0);
  CHECK(connection.receive(packet(Op::kResponse)) == Action::kEstablished);
  CHECK(connection.open());
  CHECK(connection.sendable() == 256U << 10U);
}

TEST_CASE("What does not belong into a connection's state is a violation") {
  SECTION("data before RESPONSE") {
    Connection connection = Connection::requested_by_guest(packet(Op::kRequest));
    CHECK(connection.receive(packet(Op::kRw, 1)) == Action::kViolation);
  }
  SECTION("RESPONSE to one's own request") {
    Connection connection = Connection::requested_by_guest(packet(Op::kRequest));
    CHECK(connection.receive(packet(Op::kResponse)) == Action::kViolation);
  }
  SECTION("RESPONSE before REQUEST was sent") {
    Connection connection = Connection::requested_by_host(kGuestCid, {.host = 7, .guest = 52});
    CHECK(connection.receive(packet(Op::kResponse)) == Action::kViolation);
  }
  SECTION("a second RESPONSE") {
    Connection connection = open_connection();
    CHECK(connection.receive(packet(Op::kResponse)) == Action::kViolation);
  }
  SECTION("REQUEST for what is connected") {
    Connection connection = open_connection();
    CHECK(connection.receive(packet(Op::kRequest)) == Action::kViolation);
  }
  SECTION("SHUTDOWN before the connection is open") {
    Connection connection = Connection::requested_by_guest(packet(Op::kRequest));
    CHECK(connection.receive(packet(Op::kShutdown, 0, 3)) == Action::kViolation);
  }
  SECTION("data after SHUTDOWN") {
    Connection connection = open_connection();
    CHECK(connection.receive(packet(Op::kShutdown, 0, vsock::kShutdownSend)) == Action::kHalfClosed);
    CHECK(connection.receive(packet(Op::kRw, 1)) == Action::kViolation);
  }
}

TEST_CASE("RST ends a connection in any state") {
  CHECK(open_connection().receive(packet(Op::kRst)) == Action::kReset);
  CHECK(Connection::requested_by_host(kGuestCid, {}).receive(packet(Op::kRst)) == Action::kReset);
  CHECK(Connection::requested_by_guest(packet(Op::kRequest)).receive(packet(Op::kRst)) == Action::kReset);
}

TEST_CASE("The guest may send as much as was advertised and not a byte more") {
  Connection connection = open_connection();
  for (std::uint32_t sent = 0; sent < kBufferSize; sent += vsock::kMaxPayload) {
    REQUIRE(connection.receive(packet(Op::kRw, vsock::kMaxPayload)) == Action::kDeliver);
  }
  SECTION("one byte more is a violation") {
    CHECK(connection.receive(packet(Op::kRw, 1)) == Action::kViolation);
  }
  SECTION("what was forwarded makes room") {
    connection.forwarded(10);
    CHECK(connection.receive(packet(Op::kRw, 10)) == Action::kDeliver);
    CHECK(connection.receive(packet(Op::kRw, 1)) == Action::kViolation);
  }
}

TEST_CASE("The guest is told of room in time, and not at every byte") {
  Connection connection = open_connection();
  CHECK(connection.receive(packet(Op::kRw, 1000)) == Action::kDeliver);
  connection.forwarded(1000);
  CHECK_FALSE(connection.owed());
  CHECK(connection.receive(packet(Op::kRw, vsock::kMaxPayload)) == Action::kDeliver);
  CHECK(connection.receive(packet(Op::kRw, vsock::kMaxPayload)) == Action::kDeliver);
  connection.forwarded(1);
  REQUIRE(connection.owed() == Op::kCreditUpdate);
  CHECK(connection.stamp(Op::kCreditUpdate, 0).fwd_cnt == 1001);
  CHECK_FALSE(connection.owed());
}

TEST_CASE("Any packet to the guest carries its credit") {
  Connection connection = open_connection();
  for (int i = 0; i < 3; ++i) connection.receive(packet(Op::kRw, vsock::kMaxPayload));
  connection.forwarded(3 * vsock::kMaxPayload);
  REQUIRE(connection.owed() == Op::kCreditUpdate);
  CHECK(connection.stamp(Op::kRw, 5).fwd_cnt == 3 * vsock::kMaxPayload);
  CHECK_FALSE(connection.owed());
}

TEST_CASE("A CREDIT_REQUEST is answered even when nothing changed") {
  Connection connection = open_connection();
  CHECK(connection.receive(packet(Op::kCreditRequest)) == Action::kNone);
  CHECK(connection.owed() == Op::kCreditUpdate);
  connection.stamp(Op::kCreditUpdate, 0);
  CHECK_FALSE(connection.owed());
}

TEST_CASE("No more is sent to the guest than it has room for") {
  Header request = packet(Op::kRequest);
  request.buf_alloc = 100;
  Connection connection = Connection::requested_by_guest(request);
  connection.stamp(Op::kResponse, 0);
  CHECK(connection.sendable() == 100);
  connection.stamp(Op::kRw, 60);
  CHECK(connection.sendable() == 40);
  connection.stamp(Op::kRw, 40);
  CHECK(connection.sendable() == 0);

  SECTION("it is asked for room once") {
    connection.host_has_bytes();
    REQUIRE(connection.owed() == Op::kCreditRequest);
    connection.stamp(Op::kCreditRequest, 0);
    connection.host_has_bytes();
    CHECK_FALSE(connection.owed());
    Header update = packet(Op::kCreditUpdate);
    update.buf_alloc = 100;
    update.fwd_cnt = 0;
    connection.receive(update);
    connection.host_has_bytes();
    CHECK_FALSE(connection.owed());
    update.fwd_cnt = 100;
    connection.receive(update);
    CHECK(connection.sendable() == 100);
    connection.stamp(Op::kRw, 100);
    connection.host_has_bytes();
    CHECK(connection.owed() == Op::kCreditRequest);
  }
  SECTION("a smaller buffer than what is under way leaves no room") {
    Header update = packet(Op::kCreditUpdate);
    update.buf_alloc = 10;
    connection.receive(update);
    CHECK(connection.sendable() == 0);
  }
  SECTION("a fwd_cnt beyond what was sent leaves no room") {
    Header update = packet(Op::kCreditUpdate);
    update.buf_alloc = 100;
    update.fwd_cnt = 101;
    connection.receive(update);
    CHECK(connection.sendable() == 0);
  }
}

TEST_CASE("Counters wrap") {
  Connection connection = open_connection();
  Header update = packet(Op::kCreditUpdate);
  Header data = packet(Op::kRw, vsock::kMaxPayload);
  std::uint32_t total = 0;
  for (int i = 0; i < 70'000; ++i) {  // more than 4 GiB each way
    data.fwd_cnt = total;
    REQUIRE(connection.receive(data) == Action::kDeliver);
    connection.forwarded(vsock::kMaxPayload);
    if (connection.owed())
      REQUIRE(connection.stamp(*connection.owed(), 0).fwd_cnt == total + vsock::kMaxPayload);
    total += vsock::kMaxPayload;
    REQUIRE(connection.sendable() == 256U << 10U);
    connection.stamp(Op::kRw, vsock::kMaxPayload);
    update.fwd_cnt = total;
    connection.receive(update);
  }
}

TEST_CASE("SHUTDOWN tells the guest what the host peer did, and both flags once both directions are over") {
  Connection connection = open_connection();
  SECTION("host end of file, then the guest's, then flushed") {
    connection.receive(packet(Op::kRw, 10));
    connection.host_writes_no_more();
    REQUIRE(connection.owed() == Op::kShutdown);
    CHECK(connection.stamp(Op::kShutdown, 0).flags == vsock::kShutdownSend);
    CHECK_FALSE(connection.owed());
    CHECK(connection.receive(packet(Op::kShutdown, 0, vsock::kShutdownSend)) == Action::kHalfClosed);
    CHECK_FALSE(connection.owed());
    CHECK_FALSE(connection.awaits_reset());
    connection.forwarded(10);
    REQUIRE(connection.owed() == Op::kShutdown);
    CHECK(connection.stamp(Op::kShutdown, 0).flags == vsock::kShutdownBoth);
    CHECK(connection.awaits_reset());
  }
  SECTION("the host peer reads no more") {
    connection.host_reads_no_more();
    REQUIRE(connection.owed() == Op::kShutdown);
    CHECK(connection.stamp(Op::kShutdown, 0).flags == vsock::kShutdownReceive);
    CHECK(connection.receive(packet(Op::kRw, 10)) == Action::kDeliver);  // it was on its way
    CHECK(connection.sendable() > 0);
  }
  SECTION("the host peer is gone") {
    connection.host_reads_no_more();
    connection.host_writes_no_more();
    CHECK(connection.stamp(Op::kShutdown, 0).flags == vsock::kShutdownBoth);
    CHECK(connection.sendable() == 0);
  }
  SECTION("the guest gives up one direction after the other") {
    CHECK(connection.receive(packet(Op::kShutdown, 0, vsock::kShutdownReceive)) == Action::kHalfClosed);
    CHECK(connection.sendable() == 0);
    CHECK(connection.guest_sends());
    CHECK(connection.receive(packet(Op::kShutdown, 0, vsock::kShutdownSend)) == Action::kClosed);
  }
  SECTION("no flags, or unknown ones, change nothing") {
    CHECK(connection.receive(packet(Op::kShutdown, 0, 0)) == Action::kHalfClosed);
    CHECK(connection.receive(packet(Op::kShutdown, 0, 0xfffffffc)) == Action::kHalfClosed);
    CHECK(connection.guest_sends());
    CHECK(connection.guest_receives());
  }
}

}  // namespace mayfly::test
