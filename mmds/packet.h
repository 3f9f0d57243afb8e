// Ethernet, ARP, IPv4 and TCP as bytes: taking frames apart and putting them together. Pure; bounded by the
// bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>

#include "mmds/config.h"

namespace mayfly::mmds {

using MacAddress = std::array<std::uint8_t, 6>;

// The first of these bytes of a frame say whether it is for the service; a frame may be shorter.
inline constexpr std::size_t kFrameHead = 42;

inline constexpr std::size_t kEthernetHeader = 14;
inline constexpr std::size_t kIpv4Header = 20;  // without options
inline constexpr std::size_t kTcpHeader = 20;
inline constexpr std::size_t kMostPayload = 1460;  // of a segment of ours
inline constexpr std::size_t kMssOption = 4;
inline constexpr std::size_t kLargestReply = kEthernetHeader + kIpv4Header + kTcpHeader + kMostPayload;

// Whether a frame that starts so is IPv4 to `address`, or ARP that asks for it.
bool concerns(std::span<const std::byte> frame_head, const Ipv4Address& address);

// Why a frame is dropped.
enum class Drop : std::uint8_t {
  kBadEthernet,  // its source is no station's address
  kMalformed,    // cut, contradictory, or with a wrong checksum
  kUnusual,      // well-formed, but a fragment, neither ARP request nor TCP, or from no host's address
};

// Who is asked (RFC 826) and who asks.
struct ArpRequest {
  MacAddress sender_mac{};
  Ipv4Address sender_ip{};
};

// RFC 9293, section 3.1: control bits.
inline constexpr std::uint8_t kFin = 1;
inline constexpr std::uint8_t kSyn = 2;
inline constexpr std::uint8_t kRst = 4;
inline constexpr std::uint8_t kPsh = 8;
inline constexpr std::uint8_t kAck = 16;

// A TCP segment, as both ends see it.
struct Segment {
  std::uint16_t source_port = 0;
  std::uint16_t destination_port = 0;
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgment = 0;  // where flags has kAck
  std::uint8_t flags = 0;
  std::uint16_t window = 0;
  std::optional<std::uint16_t> mss = {};  // only with kSyn
  std::span<const std::byte> payload = {};

  [[nodiscard]] bool has(std::uint8_t flag) const { return (flags & flag) != 0; }
  // Of sequence numbers: SYN and FIN take one each.
  [[nodiscard]] std::uint32_t length() const {
    return static_cast<std::uint32_t>(payload.size()) + (has(kSyn) ? 1U : 0U) + (has(kFin) ? 1U : 0U);
  }
};

// A segment and whom it is from.
struct Received {
  MacAddress mac{};
  Ipv4Address ip{};
  Segment segment;
};

// Which of the frames that concern the service this is.
bool is_arp(std::span<const std::byte> frame);
std::expected<ArpRequest, Drop> parse_arp(std::span<const std::byte> frame, const Ipv4Address& address);
// `checksum_left`: the sender left TCP's checksum to the device (VIRTIO_NET_HDR_F_NEEDS_CSUM), so there is
// none to check.
std::expected<Received, Drop> parse_tcp(std::span<const std::byte> frame, const Ipv4Address& address,
                                        bool checksum_left);

// Both fill the front of `out` (kLargestReply bytes or more) and say how much of it. `payload` of a segment:
// at most kMostPayload; with an MSS kMssOption less.
std::size_t build_arp_reply(std::span<std::byte> out, const MacAddress& own_mac, const Ipv4Address& own_ip,
                            const ArpRequest& request);
std::size_t build_tcp(std::span<std::byte> out, const MacAddress& own_mac, const Ipv4Address& own_ip,
                      const MacAddress& mac, const Ipv4Address& ip, const Segment& segment);

// RFC 1071, over the bytes and what `sum` holds of others; not complemented.
std::uint16_t ones_sum(std::span<const std::byte> bytes, std::uint32_t sum = 0);

}  // namespace mayfly::mmds
