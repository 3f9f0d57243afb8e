// Frames: ARP, and what is dropped before TCP.
#include "tests/unit/mmds/guest.h"

using namespace mayfly;
using namespace mayfly::mmds;
using namespace mayfly::test;

namespace {

struct PacketBench {
  Network network{make_service(document())};
  Responder& responder = *network.responder;
  // Whether the service says anything to it.
  bool answered(const Frame& frame, bool checksum_left = false) {
    responder.receive(frame, checksum_left, network.now);
    const bool answer = responder.wants_to_send();
    while (responder.wants_to_send()) network.pull();
    return answer;
  }
};

const Tcp kSynSegment = {.seq = 7, .flags = kTcpSyn, .mss = 1460};

}  // namespace

TEST_CASE("mmds: which frames are for the service") {
  const PacketBench b;
  CHECK(b.responder.concerns(tcp_frame({})));
  CHECK(b.responder.concerns(arp_request()));
  Ends other;
  other.service_ip = {169, 254, 169, 253};
  CHECK_FALSE(b.responder.concerns(tcp_frame({}, other)));
  CHECK_FALSE(b.responder.concerns(arp_request(other)));
  const Frame tcp = tcp_frame({});
  const Frame arp = arp_request();
  for (std::size_t n = 0; n < 34; ++n) CHECK_FALSE(b.responder.concerns(std::span(tcp).first(n)));
  for (std::size_t n = 0; n < 42; ++n) CHECK_FALSE(b.responder.concerns(std::span(arp).first(n)));
  Frame ipv6 = tcp_frame({});
  set16(ipv6, 12, 0x86dd);
  CHECK_FALSE(b.responder.concerns(ipv6));
}

TEST_CASE("mmds: ARP requests are answered") {
  PacketBench b;
  b.responder.receive(arp_request(), false, b.network.now);
  REQUIRE(b.responder.wants_to_send());
  Frame expected;
  const Ends ends;
  add(expected, ends.guest_mac);
  add(expected, ends.service_mac);
  add16(expected, 0x0806);
  add32(expected, 0x0001'0800);
  add32(expected, 0x0604'0002);
  add(expected, ends.service_mac);
  add(expected, ends.service_ip);
  add(expected, ends.guest_mac);
  add(expected, ends.guest_ip);
  CHECK(b.network.pull() == expected);
  CHECK_FALSE(b.responder.wants_to_send());
  CHECK(b.responder.metrics().rx_accepted == 1);
  CHECK(b.responder.metrics().tx_frames == 1);
  CHECK(b.responder.metrics().tx_bytes == 42);
}

TEST_CASE("mmds: other ARP is dropped") {
  PacketBench b;
  for (const auto& [at, value] :
       {std::pair<std::size_t, unsigned>{14, 6}, {16, 0x86dd}, {18, 0x0804}, {20, 2}, {20, 3}}) {
    Frame frame = arp_request();
    set16(frame, at, value);
    CHECK_FALSE(b.answered(frame));
  }
  Frame multicast = arp_request();
  multicast[22] = std::byte{0xff};
  CHECK_FALSE(b.answered(multicast));
  CHECK(b.responder.metrics().rx_bad_eth == 1);
}

TEST_CASE("mmds: no more ARP replies wait than may") {
  PacketBench b;
  for (int i = 0; i < 1000; ++i) b.responder.receive(arp_request(), false, b.network.now);
  std::size_t replies = 0;
  for (; b.responder.wants_to_send(); ++replies) b.network.pull();
  CHECK(replies == kMostArpReplies);
  CHECK(b.responder.metrics().tx_errors == 1000 - kMostArpReplies);
}

TEST_CASE("mmds: cut and contradictory frames are dropped") {
  PacketBench b;
  const Frame syn = tcp_frame(kSynSegment);
  for (std::size_t n = 0; n < syn.size(); ++n) {
    Frame cut(syn.begin(), syn.begin() + static_cast<std::ptrdiff_t>(n));
    CHECK_FALSE(b.answered(cut));
  }
  const auto changed = [&](std::size_t at, unsigned value) {
    Frame frame = syn;
    frame[at] = static_cast<std::byte>(value);
    if (at < 34) set16(frame, 24, 0), set16(frame, 24, internet_checksum(frame, 14, 34));
    if (at >= 34) sum_up(frame);
    return b.answered(frame);
  };
  CHECK_FALSE(changed(14, 0x55));  // IP version
  CHECK_FALSE(changed(14, 0x44));  // header length
  CHECK_FALSE(changed(14, 0x4f));
  CHECK_FALSE(changed(16, 0xff));  // total length
  CHECK_FALSE(changed(17, 19));
  CHECK_FALSE(changed(17, 39));
  CHECK_FALSE(changed(46, 0x40));  // data offset
  CHECK_FALSE(changed(46, 0xf0));
  CHECK(b.responder.metrics().rx_accepted_err > 60);
  CHECK(b.responder.metrics().rx_accepted == 0);
}

TEST_CASE("mmds: what is well-formed and not for TCP is dropped") {
  PacketBench b;
  const auto changed = [&](std::size_t at, unsigned value) {
    Frame frame = tcp_frame(kSynSegment);
    frame[at] = static_cast<std::byte>(value);
    sum_up(frame);
    return b.answered(frame);
  };
  CHECK_FALSE(changed(23, 17));    // UDP
  CHECK_FALSE(changed(23, 1));     // ICMP
  CHECK_FALSE(changed(20, 0x20));  // more fragments
  CHECK_FALSE(changed(21, 1));     // not the first one
  for (const auto& source : {std::array<std::uint8_t, 4>{0, 0, 0, 0},
                             {127, 0, 0, 1},
                             {224, 0, 0, 1},
                             {255, 255, 255, 255},
                             {169, 254, 169, 254}}) {
    Ends ends;
    ends.guest_ip = source;
    CHECK_FALSE(b.answered(tcp_frame(kSynSegment, ends)));
  }
  CHECK(b.responder.metrics().rx_accepted_unusual == 9);
  Ends multicast;
  multicast.guest_mac[0] = 1;
  CHECK_FALSE(b.answered(tcp_frame(kSynSegment, multicast)));
  CHECK(b.responder.metrics().rx_bad_eth == 1);
}

TEST_CASE("mmds: checksums are checked, unless they were left to the device") {
  PacketBench b;
  Frame frame = tcp_frame(kSynSegment);
  set16(frame, 50, 0x1234);
  CHECK_FALSE(b.answered(frame));
  CHECK(b.answered(frame, /*checksum_left=*/true));
  frame = tcp_frame(kSynSegment);
  set16(frame, 24, 0x1234);
  CHECK_FALSE(b.answered(frame, true));
}

TEST_CASE("mmds: padding, IP options and odd TCP options") {
  PacketBench b;
  Frame padded = tcp_frame({.from_port = 1, .seq = 7, .flags = kTcpSyn});
  padded.resize(60 + 20);
  CHECK(b.answered(padded));
  // NOP, then an option that says it is longer than there is room: the list ends there.
  Frame odd = tcp_frame({.from_port = 2, .seq = 7, .flags = kTcpSyn, .mss = 0});
  odd[54] = std::byte{1};
  odd[55] = std::byte{2};
  odd[56] = std::byte{200};
  sum_up(odd);
  CHECK(b.answered(odd));
  odd[56] = std::byte{0};
  sum_up(odd);
  CHECK(b.answered(odd));
  Frame with_options = tcp_frame({.from_port = 3, .seq = 7, .flags = kTcpSyn});
  with_options.insert(with_options.begin() + 34, 4, std::byte{1});
  with_options[14] = std::byte{0x46};
  set16(with_options, 16, 44);
  set16(with_options, 24, 0);
  set16(with_options, 24, internet_checksum(with_options, 14, 38));
  CHECK(b.answered(with_options));
}
