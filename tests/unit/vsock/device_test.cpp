// The device's queues and single packets.
#include <catch2/catch.hpp>

#include "tests/unit/vsock/guest.h"
#include "tests/unit/vsock/host.h"

namespace mayfly::test {

using vsock::Header;
using vsock::Op;

namespace {

std::vector<std::byte> bytes_of(const Header& header) {
  const auto bytes = std::as_bytes(std::span(&header, 1));
  return {bytes.begin(), bytes.end()};
}

// Nothing else is on its way: a request to a port without a listener is answered, and by the next packet.
void check_quiet(Driver& driver) {
  driver.send(guest_header(Op::kRequest, 99, 99));
  const Packet packet = driver.receive();
  CHECK(op_of(packet) == Op::kRst);
  CHECK(packet.header.src_port == 99);
}

}  // namespace

TEST_CASE("What a vsock device is") {
  Driver driver;
  driver.locked([](vsock::Device& device) {
    CHECK(device.type() == virtio::DeviceType::kVsock);
    CHECK(device.queue_sizes().size() == 3);
    CHECK((device.offered_features() & virtio::kFeatureEventIdx) != 0);
    CHECK((device.offered_features() & virtio::kFeatureIndirectDesc) != 0);
    CHECK((device.offered_features() & 1) != 0);
  });
}

TEST_CASE("Configuration space is the CID, and zeroes behind it") {
  Driver driver;
  const auto read = [&](std::uint32_t offset, std::size_t size) {
    std::vector<std::byte> out(size, std::byte{0xee});
    driver.locked([&](vsock::Device& device) { device.read_config(offset, out); });
    return out;
  };
  const auto zero = std::byte{0};
  CHECK(read(0, 8) == std::vector{std::byte{kGuestCid}, zero, zero, zero, zero, zero, zero, zero});
  CHECK(read(4, 4) == std::vector(4, zero));
  CHECK(read(6, 8) == std::vector(8, zero));
  CHECK(read(8, 4) == std::vector(4, zero));
  CHECK(read(0xffffffff, 4) == std::vector(4, zero));
  const auto value = to_bytes("\x07\x07\x07\x07");
  driver.locked([&](vsock::Device& device) { device.write_config(0, value); });
  CHECK(read(0, 1) == std::vector{std::byte{kGuestCid}});
}

TEST_CASE("A request that no one listens for gets RST") {
  Driver driver;
  driver.send(guest_header(Op::kRequest, 1000, 52));
  const Packet packet = driver.receive();
  CHECK(op_of(packet) == Op::kRst);
  CHECK(packet.header.src_cid == vsock::kHostCid);
  CHECK(packet.header.src_port == 52);
  CHECK(packet.header.dst_port == 1000);
  CHECK(driver.connections() == 0);
  CHECK(driver.counters().refused_from_guest == 1);
}

TEST_CASE("A request for a port whose path is too long gets RST") {
  Driver driver;
  driver.send(guest_header(Op::kRequest, 1000, 0xffffffff));
  CHECK(op_of(driver.receive()) == Op::kRst);
}

TEST_CASE("A packet of an unknown connection gets RST, an RST gets nothing") {
  Driver driver;
  for (const Op op : {Op::kResponse, Op::kShutdown, Op::kRw, Op::kCreditUpdate, Op::kCreditRequest}) {
    driver.send(guest_header(op, 1000, 52));
    CHECK(op_of(driver.receive()) == Op::kRst);
  }
  driver.send(guest_header(Op::kRst, 1000, 52));
  check_quiet(driver);
}

TEST_CASE("A chain too short for a header is returned and counted") {
  Driver driver;
  const auto bytes = bytes_of(guest_header(Op::kRequest, 1, 1));
  driver.send_bytes(std::span(bytes).first(1));
  driver.send_bytes(std::span(bytes).first(43));
  check_quiet(driver);
  CHECK(driver.counters().malformed_packets == 2);
  CHECK(driver.tx().used_index() == 3);
}

TEST_CASE("A header may be cut over descriptors") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  driver.send_bytes(bytes_of(guest_header(Op::kRequest, 1000, 52)), 5);
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  auto bytes = bytes_of(guest_header(Op::kRw, 1000, 52, 11));
  const auto payload = to_bytes("hello world");
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  driver.send_bytes(bytes, 1);
  CHECK(host.read(11) == "hello world");
}

TEST_CASE("Receive buffers may be cut anywhere") {
  Driver driver({.receive_buffers = 4, .receive_size = 200, .header_split = 7});
  const HostListener listener(driver.uds_path(52));
  SocketLayer sockets(driver);
  GuestSocket& socket = sockets.connect(52);
  const HostSocket host = listener.accept();
  std::string sent;
  for (int i = 0; i < 500; ++i) sent += std::to_string(i);
  host.write(sent);
  sockets.run_until([&] { return socket.read.size() >= sent.size(); }, "data in small pieces");
  CHECK(socket.read == sent);
}

TEST_CASE("A packet longer than its chain, or than 64 KiB, gets RST and ends its connection") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  SECTION("longer than its chain") {
    driver.send(guest_header(Op::kRw, 1000, 52, 6), "hello");
  }
  SECTION("more than 64 KiB") {
    driver.send(guest_header(Op::kRw, 1000, 52, vsock::kMaxPayload + 1),
                std::string(vsock::kMaxPayload + 1, 'x'));
  }
  SECTION("an unknown operation") {
    driver.send(guest_header(static_cast<Op>(77), 1000, 52));
  }
  CHECK(op_of(driver.receive()) == Op::kRst);
  CHECK(host.read(1).empty());
  CHECK(driver.connections() == 0);
  CHECK(driver.counters().malformed_packets == 1);
}

TEST_CASE("A packet of another type or to another CID does not end the connection between its ports") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  Header header = guest_header(Op::kRst, 1000, 52);
  header.dst_cid = 7;
  driver.send(header);  // an RST: no answer
  header = guest_header(Op::kRw, 1000, 52);
  header.type = 2;
  driver.send(header);
  const Packet reset = driver.receive();
  CHECK(op_of(reset) == Op::kRst);
  CHECK(reset.header.type == 2);
  header = guest_header(Op::kRw, 1000, 52);
  header.dst_cid = 7;
  driver.send(header);
  CHECK(driver.receive().header.src_cid == 7);
  driver.send(guest_header(Op::kRw, 1000, 52, 2), "ok");
  CHECK(host.read(2) == "ok");
}

TEST_CASE("A packet from another CID is dropped") {
  Driver driver;
  Header header = guest_header(Op::kRequest, 1000, 52);
  header.src_cid = 7;
  driver.send(header);
  check_quiet(driver);
}

TEST_CASE("A receive buffer that is too small is returned empty and the next one used") {
  Driver driver({.receive_buffers = 0});
  driver.provide(1, 1);
  driver.provide(1, 43);
  driver.send(guest_header(Op::kRequest, 1000, 52));
  driver.provide(1, 44);
  CHECK(op_of(driver.receive()) == Op::kRst);
  CHECK(driver.counters().short_chains == 2);
}

TEST_CASE("A receive buffer for a header only carries control packets, not data") {
  Driver driver({.receive_buffers = 1, .receive_size = 44, .reuse_receive_buffers = false});
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  host.write("data");
  driver.provide(2, 44);
  driver.provide(1, 100);
  const Packet packet = driver.receive();
  CHECK(op_of(packet) == Op::kRw);
  CHECK(packet.payload == "data");
}

TEST_CASE("A broken queue makes the device need a reset, and only that") {
  Driver driver;
  const HostListener listener(driver.uds_path(52));
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
  const HostSocket host = listener.accept();
  SECTION("transmit") {
    driver.tx().set_available_index(static_cast<std::uint16_t>(driver.tx().available_index() + 1000));
    driver.locked([](vsock::Device& device) { device.queue_notified(1); });
  }
  SECTION("receive") {
    driver.rx().set_available_index(static_cast<std::uint16_t>(driver.rx().available_index() + 1000));
    host.write("x");
  }
  wait_until([&] { return driver.interrupt().errors > 0; }, "the device error");
  CHECK(host.read(1).empty());
  CHECK(driver.connections() == 0);
  CHECK(driver.counters().queue_errors == 1);
  for (std::uint16_t queue = 0; queue < 3; ++queue) {
    driver.locked([&](vsock::Device& device) { device.queue_notified(queue); });
  }
  CHECK(driver.interrupt().errors == 1);

  driver.reset();
  driver.activate();
  driver.send(guest_header(Op::kRequest, 1000, 52));
  CHECK(op_of(driver.receive()) == Op::kResponse);
}

TEST_CASE("A device without a receive or transmit queue is not activated") {
  const Folder folder;
  const auto loop = base::EventLoop::create().value();
  const auto device = vsock::Device::create({.guest_cid = 3, .uds_path = folder.path("v")}, *loop).value();
  FakeGuest guest;
  FakeInterrupt interrupt;
  DriverQueue rx(guest, 16);
  virtio::Activation activation{
      .features = 0, .memory = &guest.memory(), .interrupt = &interrupt, .queues = {}};
  SECTION("none") {}
  SECTION("disabled") {
    activation.queues.push_back(rx.device_queue());
    activation.queues.emplace_back();
    activation.queues.emplace_back();
  }
  CHECK_FALSE(device->activate(std::move(activation)));
  device->reset();
}

TEST_CASE("More RSTs than may wait stop the transmit queue until there are receive buffers") {
  Driver driver({.receive_buffers = 0});
  constexpr std::uint32_t kPackets = 3000;
  std::uint32_t queued = 0;
  std::uint32_t answered = 0;
  // Beyond the limit, and no more than the ring takes once nothing moves.
  while (queued < 1100) driver.send(guest_header(Op::kRw, queued++, 52));
  wait_until([&] { return driver.tx().used_index() >= 1024; }, "the packets that are looked at");
  CHECK(driver.tx().used_index() == 1024);
  driver.provide(128);
  wait_until(
      [&] {
        while (const auto packet = driver.poll()) {
          REQUIRE(op_of(*packet) == Op::kRst);
          REQUIRE(packet->header.dst_port == answered);
          ++answered;
        }
        if (queued < kPackets && driver.tx().free_descriptors() > 2) {
          driver.send(guest_header(Op::kRw, queued++, 52));
        }
        return answered == kPackets;
      },
      "all RSTs");
}

TEST_CASE("One interrupt serves a batch") {
  Driver driver;
  const int before = driver.interrupt().used;
  for (std::uint32_t i = 0; i < 50; ++i) driver.queue(guest_header(Op::kRst, i, 52));
  driver.tx().set_used_event(driver.tx().used_index());
  driver.kick();
  wait_until([&] { return driver.all_sent(); }, "the batch");
  CHECK(driver.interrupt().used > before);
  CHECK(driver.interrupt().used <= before + 2);
}

TEST_CASE("Counters go with the state") {
  Driver driver;
  driver.send(guest_header(Op::kRequest, 1000, 52));
  driver.receive();
  const vsock::State state = driver.locked([](vsock::Device& device) { return device.save(); });
  CHECK(state.guest_cid == kGuestCid);
  CHECK(state.uds_path == driver.uds_path());
  Driver other;
  other.locked([&](vsock::Device& device) { device.restore(state); });
  CHECK(other.counters().refused_from_guest == 1);
}

}  // namespace mayfly::test
