#include "mmds/packet.h"

#include <algorithm>

namespace mayfly::mmds {

namespace {

using Bytes = std::span<const std::byte>;

constexpr std::uint16_t kTypeIpv4 = 0x0800;
constexpr std::uint16_t kTypeArp = 0x0806;
constexpr std::size_t kArpSize = 28;
constexpr std::uint8_t kProtocolTcp = 6;

// All offsets below are known to be inside; the standard library checks them once more.
std::uint8_t get8(Bytes bytes, std::size_t at) {
  return std::to_integer<std::uint8_t>(bytes[at]);
}
std::uint16_t get16(Bytes bytes, std::size_t at) {
  return static_cast<std::uint16_t>(get8(bytes, at) << 8U | get8(bytes, at + 1));
}
std::uint32_t get32(Bytes bytes, std::size_t at) {
  return std::uint32_t{get16(bytes, at)} << 16U | get16(bytes, at + 2);
}
template <std::size_t kSize>
std::array<std::uint8_t, kSize> get_array(Bytes bytes, std::size_t at) {
  std::array<std::uint8_t, kSize> array{};
  for (std::size_t i = 0; i < kSize; ++i) array[i] = get8(bytes, at + i);
  return array;
}

void put8(std::span<std::byte> out, std::size_t at, unsigned value) {
  out[at] = static_cast<std::byte>(value);
}
void put16(std::span<std::byte> out, std::size_t at, unsigned value) {
  put8(out, at, value >> 8U & 0xffU);
  put8(out, at + 1, value & 0xffU);
}
void put32(std::span<std::byte> out, std::size_t at, std::uint32_t value) {
  put16(out, at, value >> 16U);
  put16(out, at + 2, value & 0xffffU);
}
template <std::size_t kSize>
void put_array(std::span<std::byte> out, std::size_t at, const std::array<std::uint8_t, kSize>& array) {
  for (std::size_t i = 0; i < kSize; ++i) put8(out, at + i, array[i]);
}

bool is_multicast(const MacAddress& mac) {
  return (mac[0] & 1U) != 0;
}

// A host's address: not "this network", loopback, multicast, reserved or broadcast (RFC 1122,
// section 3.2.1.3).
bool is_host(const Ipv4Address& ip) {
  return ip[0] != 0 && ip[0] != 127 && ip[0] < 224;
}

// RFC 9293, section 3.1: the sum over the pseudo-header.
std::uint32_t pseudo_sum(const Ipv4Address& from, const Ipv4Address& to, std::size_t length) {
  std::uint32_t sum = kProtocolTcp + static_cast<std::uint32_t>(length);
  for (const Ipv4Address& ip : {from, to}) {
    sum += (std::uint32_t{ip[0]} << 8U | ip[1]) + (std::uint32_t{ip[2]} << 8U | ip[3]);
  }
  return sum;
}

void put_ethernet(std::span<std::byte> out, const MacAddress& to, const MacAddress& from,
                  std::uint16_t type) {
  put_array(out, 0, to);
  put_array(out, 6, from);
  put16(out, 12, type);
}

// The payload of an IPv4 packet to `address`, without the padding of short frames.
std::expected<Bytes, Drop> parse_ipv4(Bytes packet, const Ipv4Address& address) {
  if (packet.size() < kIpv4Header) return std::unexpected(Drop::kMalformed);
  const std::size_t header = (get8(packet, 0) & 0xfU) * std::size_t{4};
  const std::size_t total = get16(packet, 2);
  if (get8(packet, 0) >> 4U != 4 || header < kIpv4Header || header > total || total > packet.size() ||
      ones_sum(packet.first(header)) != 0xffff) {
    return std::unexpected(Drop::kMalformed);
  }
  // More to come, or not the first: nothing is put together here.
  constexpr unsigned kMoreAndOffset = 0x3fff;
  const bool fragment = (get16(packet, 6) & kMoreAndOffset) != 0;
  const auto source = get_array<4>(packet, 12);
  if (fragment || get8(packet, 9) != kProtocolTcp || !is_host(source) || source == address) {
    return std::unexpected(Drop::kUnusual);
  }
  return packet.subspan(header, total - header);
}

// RFC 9293, section 3.2. Options that contradict the header's length end the list.
std::optional<std::uint16_t> find_mss(Bytes options) {
  constexpr std::uint8_t kEnd = 0;
  constexpr std::uint8_t kNothing = 1;
  constexpr std::uint8_t kMss = 2;
  while (!options.empty() && get8(options, 0) != kEnd) {
    if (get8(options, 0) == kNothing) {
      options = options.subspan(1);
      continue;
    }
    if (options.size() < 2) break;
    const std::size_t length = get8(options, 1);
    if (length < 2 || length > options.size()) break;
    if (get8(options, 0) == kMss && length == kMssOption) return get16(options, 2);
    options = options.subspan(length);
  }
  return std::nullopt;
}

}  // namespace

std::uint16_t ones_sum(Bytes bytes, std::uint32_t start) {
  // At most 64 KiB of 16-bit words and a few more: far from what 64 bits hold.
  std::uint64_t sum = start;
  for (; bytes.size() >= 2; bytes = bytes.subspan(2)) sum += get16(bytes, 0);
  if (!bytes.empty()) sum += std::uint64_t{get8(bytes, 0)} << 8U;
  while (sum >> 16U != 0) sum = (sum & 0xffffU) + (sum >> 16U);
  return static_cast<std::uint16_t>(sum);
}

bool concerns(Bytes head, const Ipv4Address& address) {
  constexpr std::size_t kIpDestination = kEthernetHeader + 16;
  constexpr std::size_t kArpTarget = kEthernetHeader + 24;
  if (head.size() < kIpDestination + 4) return false;
  const std::uint16_t type = get16(head, 12);
  if (type == kTypeIpv4) return get_array<4>(head, kIpDestination) == address;
  return type == kTypeArp && head.size() >= kArpTarget + 4 && get_array<4>(head, kArpTarget) == address;
}

bool is_arp(Bytes frame) {
  return frame.size() >= kEthernetHeader && get16(frame, 12) == kTypeArp;
}

std::expected<ArpRequest, Drop> parse_arp(Bytes frame, const Ipv4Address& address) {
  if (frame.size() < kEthernetHeader + kArpSize) return std::unexpected(Drop::kMalformed);
  const Bytes arp = frame.subspan(kEthernetHeader);
  constexpr std::uint32_t kEthernetAndIpv4 = 1U << 16U | kTypeIpv4;
  if (get32(arp, 0) != kEthernetAndIpv4 || get16(arp, 4) != 0x0604) return std::unexpected(Drop::kMalformed);
  constexpr std::uint16_t kRequest = 1;
  if (get16(arp, 6) != kRequest || get_array<4>(arp, 24) != address) return std::unexpected(Drop::kUnusual);
  const ArpRequest request{.sender_mac = get_array<6>(arp, 8), .sender_ip = get_array<4>(arp, 14)};
  if (is_multicast(request.sender_mac)) return std::unexpected(Drop::kBadEthernet);
  return request;
}

std::expected<Received, Drop> parse_tcp(Bytes frame, const Ipv4Address& address, bool checksum_left) {
  if (frame.size() < kEthernetHeader) return std::unexpected(Drop::kMalformed);
  Received received{.mac = get_array<6>(frame, 6), .ip = {}, .segment = {}};
  if (is_multicast(received.mac)) return std::unexpected(Drop::kBadEthernet);
  const Bytes packet = frame.subspan(kEthernetHeader);
  const auto tcp = parse_ipv4(packet, address);
  if (!tcp) return std::unexpected(tcp.error());
  received.ip = get_array<4>(packet, 12);
  if (tcp->size() < kTcpHeader) return std::unexpected(Drop::kMalformed);
  const std::size_t header = (get8(*tcp, 12) >> 4U) * std::size_t{4};
  if (header < kTcpHeader || header > tcp->size()) return std::unexpected(Drop::kMalformed);
  if (!checksum_left && ones_sum(*tcp, pseudo_sum(received.ip, address, tcp->size())) != 0xffff) {
    return std::unexpected(Drop::kMalformed);
  }
  Segment& segment = received.segment;
  segment.source_port = get16(*tcp, 0);
  segment.destination_port = get16(*tcp, 2);
  segment.sequence = get32(*tcp, 4);
  segment.acknowledgment = get32(*tcp, 8);
  segment.flags = get8(*tcp, 13);
  segment.window = get16(*tcp, 14);
  if (segment.has(kSyn)) segment.mss = find_mss(tcp->subspan(kTcpHeader, header - kTcpHeader));
  segment.payload = tcp->subspan(header);
  return received;
}

std::size_t build_arp_reply(std::span<std::byte> out, const MacAddress& own_mac, const Ipv4Address& own_ip,
                            const ArpRequest& request) {
  put_ethernet(out, request.sender_mac, own_mac, kTypeArp);
  const auto arp = out.subspan(kEthernetHeader, kArpSize);
  constexpr std::uint16_t kReply = 2;
  put16(arp, 0, 1);
  put16(arp, 2, kTypeIpv4);
  put16(arp, 4, 0x0604);
  put16(arp, 6, kReply);
  put_array(arp, 8, own_mac);
  put_array(arp, 14, own_ip);
  put_array(arp, 18, request.sender_mac);
  put_array(arp, 24, request.sender_ip);
  return kEthernetHeader + kArpSize;
}

std::size_t build_tcp(std::span<std::byte> out, const MacAddress& own_mac, const Ipv4Address& own_ip,
                      const MacAddress& mac, const Ipv4Address& ip, const Segment& segment) {
  const std::size_t header = kTcpHeader + (segment.mss ? kMssOption : 0);
  const std::size_t total = kIpv4Header + header + segment.payload.size();
  put_ethernet(out, mac, own_mac, kTypeIpv4);
  const auto packet = out.subspan(kEthernetHeader, total);
  std::ranges::fill(packet.first(kIpv4Header + header), std::byte{0});
  constexpr std::uint16_t kDontFragment = 0x4000;
  constexpr std::uint8_t kHops = 64;
  put16(packet, 0, 0x4500);
  put16(packet, 2, static_cast<unsigned>(total));
  put16(packet, 6, kDontFragment);
  put8(packet, 8, kHops);
  put8(packet, 9, kProtocolTcp);
  put_array(packet, 12, own_ip);
  put_array(packet, 16, ip);
  put16(packet, 10, ~unsigned{ones_sum(packet.first(kIpv4Header))} & 0xffffU);

  const auto tcp = packet.subspan(kIpv4Header);
  put16(tcp, 0, segment.source_port);
  put16(tcp, 2, segment.destination_port);
  put32(tcp, 4, segment.sequence);
  put32(tcp, 8, segment.acknowledgment);
  put8(tcp, 12, static_cast<unsigned>(header / 4) << 4U);
  put8(tcp, 13, segment.flags);
  put16(tcp, 14, segment.window);
  if (segment.mss) put32(tcp, kTcpHeader, 0x0204'0000U | *segment.mss);
  std::ranges::copy(segment.payload, tcp.subspan(header).begin());
  put16(tcp, 16, ~unsigned{ones_sum(tcp, pseudo_sum(own_ip, ip, tcp.size()))} & 0xffffU);
  return kEthernetHeader + total;
}

}  // namespace mayfly::mmds
