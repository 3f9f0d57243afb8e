// The metadata service behind a network device, driven as a guest drives it.
#include "mmds/service.h"
#include "tests/support/guest_frames.h"
#include "tests/unit/virtio/net_bench.h"

using namespace mayfly;
using namespace mayfly::virtio;
using namespace mayfly::virtio::net;
using namespace mayfly::test;

namespace {

std::shared_ptr<const mmds::Service> metadata_service() {
  auto store = std::make_shared<mmds::Store>();
  REQUIRE(store->put(R"({"id": "i-7", "large": ")" + text(40000) + "\"}"));
  return mmds::Service::create({}, std::move(store)).value();
}

struct MetadataBench : NetBench {
  explicit MetadataBench(const NetOptions& chosen = {}) : NetBench(with_service(chosen)) {}
  static NetOptions with_service(NetOptions chosen) {
    chosen.metadata = metadata_service();
    return chosen;
  }
  void offer_buffers(int count = 200) {
    for (int i = 0; i < count; ++i) offer(2048);
  }
  // The next frame that the guest finds, without its header, which has to be as one without offloads.
  std::optional<Frame> next() {
    const auto used = rx.take_used();
    if (!used) return std::nullopt;
    Frame all = rx.bytes_of(used->id);
    all.resize(used->length);
    const Bytes empty = expected({}, 1);
    REQUIRE(all.size() >= empty.size());
    CHECK(Bytes(all.begin(), all.begin() + 12) == empty);
    return Frame(all.begin() + 12, all.end());
  }
  std::optional<Tcp> next_tcp() {
    const auto frame = next();
    if (!frame) return std::nullopt;
    const auto tcp = read_tcp(*frame);
    REQUIRE(tcp);
    return tcp;
  }
  // The three steps of a handshake; the service's sequence number after it.
  std::uint32_t connect(std::uint16_t port = 40000) {
    send(packet(tcp_frame({.from_port = port, .seq = 99, .flags = kTcpSyn, .mss = 1460})));
    const auto answer = next_tcp();
    REQUIRE(answer);
    CHECK(answer->flags == (kTcpSyn | kTcpAck));
    send(packet(tcp_frame({.from_port = port, .seq = 100, .ack = answer->seq + 1})));
    return answer->seq + 1;
  }
  mmds::Metrics counted() {
    const std::lock_guard lock(device->mutex());
    return device->metadata_metrics();
  }
};

const std::string kIdRequest = "GET /id HTTP/1.1\r\n\r\n";

}  // namespace

TEST_CASE("net metadata: frames to the service are answered, and never reach the network") {
  MetadataBench b;
  b.offer_buffers();
  b.send(packet(arp_request()));
  const auto arp = b.next();
  REQUIRE(arp);
  CHECK(word_at(*arp, 12) == 0x0806);
  const std::uint32_t ack = b.connect();
  b.send(packet(tcp_frame({.seq = 100, .ack = ack, .payload = kIdRequest})));
  const auto answer = b.next_tcp();
  REQUIRE(answer);
  CHECK(answer->payload.ends_with("i-7"));
  CHECK(b.network.take().empty());
  CHECK(b.network.writes == 0);
  CHECK(b.metrics().tx_frames == 0);
  CHECK(b.counted().rx_accepted == 4);
  CHECK(b.counted().tx_count == 3);
  CHECK(b.counted().connections_created == 1);
}

TEST_CASE("net metadata: whatever goes to the service's address stays, other frames pass") {
  MetadataBench b;
  b.offer_buffers();
  Frame udp = tcp_frame({});
  udp[23] = std::byte{17};
  sum_up(udp);
  b.send(packet(udp));
  Frame cut = tcp_frame({});
  cut.resize(34);
  b.send(packet(cut));
  CHECK(b.network.writes == 0);
  Ends other;
  other.service_ip = {169, 254, 169, 253};
  for (const Frame& frame : {tcp_frame({}, other), arp_request(other), frame("hello"),
                             tcp_frame({.payload = text(1000)}, other)}) {
    for (const std::uint32_t piece : {1U, 12U, 20U, 54U, 5000U}) {
      b.send(ChainBuilder(b.guest)
                 .readable(packet(frame))
                 .split(std::max(piece, static_cast<std::uint32_t>(frame.size() / 100))));
      CHECK(b.network.take() == packet(frame));
    }
  }
  CHECK_FALSE(b.next());
}

TEST_CASE("net metadata: without it such frames are like any other") {
  NetBench b;
  b.send(packet(arp_request()));
  CHECK(b.network.take() == packet(arp_request()));
  const std::lock_guard lock(b.device->mutex());
  CHECK(b.device->metadata_metrics().rx_count == 0);
}

TEST_CASE("net metadata: any framing, checksums left to the device, and segments that were to be cut") {
  for (const std::uint32_t piece : {1U, 3U, 12U, 14U, 26U, 54U, 1000U}) {
    MetadataBench b;
    b.offer_buffers();
    const std::uint32_t ack = b.connect();
    const std::string requests = kIdRequest + std::string(3000, '\n') + kIdRequest;
    Frame large = tcp_frame({.seq = 100, .ack = ack, .payload = requests});
    set16(large, 50, 0x1111);
    const Header header{.flags = kFlagNeedsCsum,
                        .gso_type = kGsoTcpV4,
                        .hdr_len = 54,
                        .gso_size = 1000,
                        .csum_start = 34,
                        .csum_offset = 16};
    b.send(ChainBuilder(b.guest).readable(packet(large, header)).split(std::max(piece, 16U)));
    const auto first = b.next_tcp();
    REQUIRE(first);
    CHECK(first->ack == 100 + requests.size());
    CHECK(first->payload.ends_with("i-7"));
    b.send(packet(tcp_frame(
        {.seq = first->ack, .ack = first->seq + static_cast<std::uint32_t>(first->payload.size())})));
    const auto second = b.next_tcp();
    REQUIRE(second);
    CHECK(second->payload.ends_with("i-7"));
    // Without the flag the same checksum is wrong.
    b.send(packet(large));
    CHECK(b.counted().rx_accepted_err == 1);
  }
}

TEST_CASE("net metadata: what was looked at is what is sent, whatever the guest writes meanwhile") {
  MetadataBench b;
  Ends other;
  other.service_ip = {10, 0, 0, 1};
  const Bytes sent = packet(tcp_frame({}, other));
  const base::GuestAddress at = b.guest.allocate_bytes(sent);
  b.network.before_write = [&] {
    b.guest.store(at.unchecked_add(12 + 30), std::array<std::uint8_t, 4>{169, 254, 169, 254});
  };
  b.send(ChainBuilder(b.guest).buffer(at, static_cast<std::uint32_t>(sent.size()), false));
  CHECK(b.network.take() == sent);
}

TEST_CASE("net metadata: spoofed frames are dropped before it") {
  MetadataBench b;
  Ends spoofed;
  spoofed.guest_mac = {0x02, 1, 1, 1, 1, 1};
  b.send(packet(arp_request(spoofed)));
  CHECK(b.metrics().tx_spoofed == 1);
  CHECK(b.counted().rx_count == 0);
}

TEST_CASE("net metadata: answers wait for receive buffers, and come before the network's frames") {
  MetadataBench b;
  b.send(packet(arp_request()));
  b.send(packet(arp_request()));
  b.network.arrive(packet(frame("tap", kHostMac)));
  b.rounds();
  CHECK_FALSE(b.next());
  b.offer_buffers(50);
  b.kick_rx();
  b.rounds();
  for (int i = 0; i < 2; ++i) {
    const auto arp = b.next();
    REQUIRE(arp);
    CHECK(word_at(*arp, 12) == 0x0806);
  }
  CHECK(b.next() == frame("tap", kHostMac));
}

TEST_CASE("net metadata: a large answer takes as many turns as it needs, and all of it arrives") {
  for (const bool mergeable : {true, false}) {
    constexpr std::uint64_t kNeedMrg =
        kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestUfo | kFeatureGuestEcn;
    MetadataBench b({.declined = mergeable ? 0 : kFeatureMrgRxbuf | kNeedMrg});
    b.offer_buffers(100);
    const std::uint32_t ack = b.connect();
    b.send(packet(tcp_frame({.seq = 100, .ack = ack, .payload = "GET /large HTTP/1.0\r\n\r\n"})));
    std::string got;
    bool ended = false;
    b.until([&] {
      while (const auto tcp = b.next_tcp()) {
        if (tcp->seq == ack + got.size()) got += tcp->payload;
        ended = ended || (tcp->flags & kTcpFin) != 0;
        b.offer(2048);
      }
      b.kick_rx();
      b.send(packet(tcp_frame({.seq = 123, .ack = ack + static_cast<std::uint32_t>(got.size())})));
      return ended;
    });
    CHECK(got.ends_with("\r\n\r\n" + text(40000)));
  }
}

TEST_CASE("net metadata: what was lost comes again in time") {
  MetadataBench b;
  b.offer_buffers();
  b.send(packet(tcp_frame({.seq = 99, .flags = kTcpSyn})));
  const auto first = b.next_tcp();
  REQUIRE(first);
  std::optional<Tcp> again;
  b.until([&] {
    if (!again) again = b.next_tcp();
    return again.has_value();
  });
  CHECK(again->seq == first->seq);
  CHECK(again->flags == (kTcpSyn | kTcpAck));
}

TEST_CASE("net metadata: receive buffers that are too small lose an answer, and it is counted") {
  MetadataBench b({.declined = kFeatureMrgRxbuf | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestUfo |
                               kFeatureGuestEcn});
  b.offer(30);
  b.send(packet(arp_request()));
  CHECK_FALSE(b.next());
  CHECK(b.counted().tx_errors == 1);
  CHECK(b.metrics().rx_too_large == 1);
}

TEST_CASE("net metadata: it answers while the link is down") {
  MetadataBench b;
  b.offer_buffers();
  b.network.write_error = EIO;
  b.send(packet(frame("x")));
  CHECK(b.link_status() == 0);
  b.send(packet(arp_request()));
  CHECK(b.next());
}

TEST_CASE("net metadata: the rate limiter holds answers back") {
  MetadataBench b(
      {.rx_limit = {.operations = BucketConfig{.size = 1, .refill_time = std::chrono::milliseconds(50)}}});
  b.offer_buffers();
  for (int i = 0; i < 3; ++i) b.send(packet(arp_request()));
  int replies = 0;
  b.until([&] {
    while (b.next()) ++replies;
    return replies == 3;
  });
  CHECK(b.metrics().rx_throttled >= 1);
}

TEST_CASE("net metadata: a reset ends its connections") {
  MetadataBench b;
  b.offer_buffers();
  b.connect();
  b.registers.write(reg::kStatus, 0U);
  CHECK(b.counted().connections_destroyed == 1);
  DriverQueue rx(b.guest, 64, b.features);
  DriverQueue tx(b.guest, 64, b.features);
  b.start(rx, tx);
  ChainBuilder(b.guest).writable(2048).submit(rx);
  ChainBuilder(b.guest).readable(packet(tcp_frame({.seq = 100, .ack = 1}))).submit(tx);
  b.registers.notify(1);
  const auto used = rx.take_used();
  REQUIRE(used);
  Frame got = rx.bytes_of(used->id);
  got.resize(used->length);
  const auto tcp = read_tcp(Frame(got.begin() + 12, got.end()));
  REQUIRE(tcp);
  CHECK((tcp->flags & kTcpRst) != 0);
}
