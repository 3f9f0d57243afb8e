// The network device, driven as a proper guest drives it.
#include "tests/unit/virtio/net_bench.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

// ---- What it offers ----

TEST_CASE("net: features follow the network and the configuration") {
  NetBench b;
  constexpr std::uint64_t kAlways =
      kFeatureMac | kFeatureStatus | kFeatureMrgRxbuf | kFeatureIndirectDesc | kFeatureEventIdx;
  CHECK(b.registers.offered() == (kAlways | kAllOffloads | kFeatureVersion1));
  NetBench other({.mtu = 1400, .offloads = kFeatureCsum});
  CHECK(other.registers.offered() == (kAlways | kFeatureCsum | kFeatureMtu | kFeatureVersion1));
}

TEST_CASE("net: configuration space") {
  NetBench b({.mtu = 9000});
  CHECK(b.registers.read(reg::kDeviceId) == 1);
  for (std::uint32_t i = 0; i < kGuestMac.size(); ++i) {
    CHECK(b.registers.read<std::uint8_t>(reg::kConfig + i) == kGuestMac[i]);
  }
  CHECK(b.link_status() == 1);
  CHECK(b.registers.read<std::uint16_t>(reg::kConfig + 8) == 1);  // max_virtqueue_pairs
  CHECK(b.registers.read<std::uint16_t>(reg::kConfig + 10) == 9000);
  CHECK(b.registers.read(reg::kConfig + 12) == 0);
  CHECK(b.registers.read(0xffc) == 0);
  b.registers.write(reg::kConfig, std::uint32_t{0});
  CHECK(b.registers.read<std::uint8_t>(reg::kConfig) == kGuestMac[0]);
}

TEST_CASE("net: the network learns what the driver takes, and forgets it with the driver") {
  NetBench b({.declined = kFeatureGuestCsum | kFeatureHostUfo});
  REQUIRE(b.network.features.size() == 1);
  const std::uint64_t set = b.network.features[0];
  CHECK((set & (kFeatureGuestCsum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestUfo)) == 0);
  CHECK((set & kFeatureHostTso4) != 0);
  b.registers.write(reg::kStatus, 0U);
  CHECK(b.network.features.back() == 0);
}

TEST_CASE("net: wrong configurations are refused") {
  const auto loop = base::EventLoop::create().value();
  FakeNetwork network;
  const auto create = [&](const Config& config) {
    return Device::create(config, *loop,
                          [&](const std::string& name) -> base::Result<std::unique_ptr<Backend>> {
                            if (name == "tap0") return std::make_unique<FakeBackend>(network);
                            return base::fail("there is no tap {}", name);
                          });
  };
  CHECK(create({.id = "eth0", .tap = "tap0", .mac = kGuestMac}));
  CHECK_FALSE(create({.id = "eth0", .tap = "tap0", .mac = {}}));
  CHECK_FALSE(create({.id = "eth0", .tap = "tap0", .mac = kGuestMac, .mtu = 67}));
  const auto missing = create({.id = "eth0", .tap = "tap1", .mac = kGuestMac});
  REQUIRE_FALSE(missing);
  CHECK_THAT(missing.error().message, Catch::Contains("eth0") && Catch::Contains("tap1"));
}

// ---- Sending ----

TEST_CASE("net: a frame is sent") {
  NetBench b;
  const Bytes sent = frame("hello");
  b.send(packet(sent));
  CHECK(b.network.take() == packet(sent));
  CHECK(b.irqs == 1);
  CHECK(b.metrics().tx_frames == 1);
  CHECK(b.metrics().tx_bytes == sent.size());
}

TEST_CASE("net: any framing of what is sent, direct and indirect") {
  const Bytes sent = packet(frame(text(200)));
  for (const std::uint32_t piece : {1U, 2U, 5U, 11U, 12U, 13U, 14U, 25U, 26U, 27U, 100U}) {
    CAPTURE(piece);
    NetBench b;
    ChainBuilder chain(b.guest);
    chain.readable(sent).split(piece);
    b.send(chain);
    CHECK(b.network.take() == sent);
    chain.submit_indirect(b.tx);
    b.registers.notify(1);
    REQUIRE(b.tx.take_used());
    CHECK(b.network.take() == sent);
  }
}

TEST_CASE("net: the largest frame, and offloads that were negotiated") {
  NetBench b;
  Bytes sent = frame(text(kLargestFrame - 14));
  const Header header{.flags = kFlagNeedsCsum,
                      .gso_type = kGsoTcpV4,
                      .hdr_len = 66,
                      .gso_size = 1448,
                      .csum_start = 34,
                      .csum_offset = 16};
  b.send(packet(sent, header));
  CHECK(b.network.take() == packet(sent, header));
}

TEST_CASE("net: one notification sends a bounded number of frames, the loop does the rest") {
  NetBench b({.declined = kFeatureEventIdx});
  for (int i = 0; i < 200; ++i) ChainBuilder(b.guest).readable(packet(frame("x"))).submit(b.tx);
  b.registers.notify(1);
  CHECK(b.network.writes == Device::kBatch);
  b.until([&] {
    b.network.take_all();
    return b.network.writes == 200;
  });
  int returned = 0;
  while (b.tx.take_used()) ++returned;
  CHECK(returned == 200);
}

TEST_CASE("net: frames that were there before the driver was ready are sent without a notification") {
  NetBench b;
  b.registers.write(reg::kStatus, 0U);
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  ChainBuilder(b.guest).readable(packet(frame("early"))).submit(tx);
  b.start(rx, tx);
  b.until([&] { return b.network.writes == 1; });
  CHECK(b.network.take() == packet(frame("early")));
}

TEST_CASE("net: a full network keeps the frame and is waited for") {
  NetBench b;
  const Bytes large = packet(frame(text(60000)));
  for (int i = 0; i < 20; ++i) ChainBuilder(b.guest).readable(large).submit(b.tx);
  b.registers.notify(1);
  b.rounds();
  const int tried = b.network.writes;
  CHECK(tried < 20);
  CHECK(b.metrics().tx_waits == 1);
  CHECK(b.metrics().tx_frames == static_cast<std::uint64_t>(tried) - 1);
  // Neither time nor the driver makes it try again.
  b.registers.notify(1);
  b.rounds(50);
  CHECK(b.network.writes == tried);
  std::size_t arrived = 0;
  b.until([&] {
    for (Bytes got = b.network.take(); !got.empty(); got = b.network.take()) {
      CHECK(got == large);
      ++arrived;
    }
    return arrived == 20;
  });
  CHECK(b.metrics().tx_frames == 20);
  CHECK(b.metrics().tx_errors == 0);
}

// ---- Receiving ----

TEST_CASE("net: a frame is received") {
  NetBench b;
  b.offer(2048);
  b.network.arrive(packet(frame("hello", kHostMac)));
  b.rounds();
  CHECK(receive(b) == expected(frame("hello", kHostMac), 1));
  CHECK(b.irqs == 1);
  CHECK(b.metrics().rx_frames == 1);
  CHECK(b.metrics().rx_bytes == 19);
}

TEST_CASE("net: the network's header is the driver's") {
  NetBench b;
  b.offer(4096);
  const Header header{.flags = kFlagNeedsCsum,
                      .gso_type = kGsoTcpV6,
                      .hdr_len = 74,
                      .gso_size = 1428,
                      .csum_start = 54,
                      .csum_offset = 16};
  const Bytes large = frame(text(3000), kHostMac);
  b.network.arrive(packet(large, header));
  b.rounds();
  CHECK(receive(b) == expected(large, 1, header));
}

TEST_CASE("net: any framing of receive buffers") {
  const Bytes got = frame(text(150), kHostMac);
  for (const std::uint32_t piece : {1U, 2U, 11U, 12U, 13U, 25U, 26U, 100U}) {
    CAPTURE(piece);
    NetBench b;
    b.offer(200, piece);
    b.network.arrive(packet(got));
    b.rounds();
    CHECK(receive(b) == expected(got, 1));
  }
}

TEST_CASE("net: frames are spread over as many chains as they need") {
  NetBench b;
  for (int i = 0; i < 250; ++i) b.offer(1536);
  const Bytes small = frame("small", kHostMac);
  const Bytes large = frame(text(kLargestFrame - 14), kHostMac);
  const Bytes exact = frame(text(1536 - 12 - 14), kHostMac);
  const Bytes one_more = frame(text(1536 - 12 - 14 + 1), kHostMac);
  for (const Bytes* each : {&small, &large, &exact, &one_more, &large, &small}) {
    b.network.arrive(packet(*each));
    b.rounds();
  }
  CHECK(receive(b) == expected(small, 1));
  CHECK(receive(b) == expected(large, 43));
  CHECK(receive(b) == expected(exact, 1));
  CHECK(receive(b) == expected(one_more, 2));
  CHECK(receive(b) == expected(large, 43));
  CHECK(receive(b) == expected(small, 1));
  CHECK_FALSE(b.rx.take_used());
  CHECK(b.metrics().rx_frames == 6);
  // Chains that no frame needed are the driver's again in a snapshot.
  CHECK(b.save().rx.next_available == 91);
  CHECK(b.save().rx.next_used == 91);
}

TEST_CASE("net: without MRG_RXBUF a frame is in one chain, or lost") {
  NetBench b({.declined = kFeatureMrgRxbuf});
  b.offer(512);
  b.offer(4096);
  const Bytes large = frame(text(3000), kHostMac);
  const Bytes exact = frame(text(512 - 12 - 14), kHostMac);
  b.network.arrive(packet(large));
  b.rounds();
  CHECK_FALSE(b.rx.take_used());
  CHECK(b.metrics().rx_too_large == 1);
  b.network.arrive(packet(exact));
  b.network.arrive(packet(large));
  b.rounds();
  CHECK(receive(b) == expected(exact, 1));
  CHECK(receive(b) == expected(large, 1));
}

TEST_CASE("net: without buffers the network is not read, until the driver notifies") {
  NetBench b;
  const Bytes got = frame("waits", kHostMac);
  b.network.arrive(packet(got));
  b.network.arrive(packet(got));
  b.rounds(50);
  CHECK(b.network.reads == 0);
  CHECK(b.metrics().rx_waits == 1);
  b.offer(2048);
  CHECK(b.rx.should_kick());
  b.kick_rx();
  CHECK(receive(b) == expected(got, 1));
  const int reads = b.network.reads;
  b.rounds(50);
  CHECK(b.network.reads == reads);
  b.offer(2048);
  CHECK(b.rx.should_kick());
  b.kick_rx();
  CHECK(receive(b) == expected(got, 1));
}

TEST_CASE("net: a driver that had room for the largest frame is waited for to have it again") {
  NetBench b;
  for (int i = 0; i < 45; ++i) b.offer(1536);
  const Bytes large = frame(text(60000), kHostMac);
  b.network.arrive(packet(large));
  b.network.arrive(packet(large));
  b.rounds();
  CHECK(receive(b) == expected(large, 40));
  CHECK_FALSE(b.rx.take_used());
  CHECK(b.metrics().rx_waits == 1);
  for (int i = 0; i < 40; ++i) b.offer(1536);
  CHECK(b.rx.should_kick());
  b.kick_rx();
  CHECK(receive(b) == expected(large, 40));
  CHECK(b.metrics().rx_too_large == 0);
}

TEST_CASE("net: a driver that never has room for the largest frame gets what fits") {
  NetBench b({.queue_size = 4});
  for (int i = 0; i < 4; ++i) b.offer(1000);
  const Bytes fits = frame(text(2500), kHostMac);
  b.network.arrive(packet(frame(text(5000), kHostMac)));
  b.network.arrive(packet(fits));
  b.rounds();
  CHECK(receive(b) == expected(fits, 3));
  CHECK(b.metrics().rx_too_large == 1);
}

TEST_CASE("net: frames for another driver's features are not delivered") {
  NetBench b({.declined = kFeatureGuestTso4});
  b.offer(4096);
  b.network.arrive(packet(frame(text(3000), kHostMac), {.flags = kFlagNeedsCsum,
                                                        .gso_type = kGsoTcpV4,
                                                        .gso_size = 1448,
                                                        .csum_start = 34,
                                                        .csum_offset = 16}));
  b.network.arrive(packet(Bytes(13)));
  b.rounds();
  CHECK_FALSE(b.rx.take_used());
  CHECK(b.metrics().rx_unfit == 2);
  b.network.arrive(packet(frame("plain", kHostMac)));
  b.rounds();
  CHECK(receive(b) == expected(frame("plain", kHostMac), 1));
}

TEST_CASE("net: a flood is received in bounded turns and announced") {
  NetBench b({.declined = kFeatureEventIdx});
  for (int i = 0; i < 250; ++i) b.offer(1536);
  for (int i = 0; i < 150; ++i) b.network.arrive(packet(frame("flood", kHostMac)));
  b.until([&] { return b.metrics().rx_frames == 150; });
  for (int i = 0; i < 150; ++i) CHECK(receive(b) == expected(frame("flood", kHostMac), 1));
  CHECK(b.irqs == 3);
}
