// Frames of the virtio network device and what comes before each of them (virtio 1.2, section 5.1.6).
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

#include "base/endian.h"

namespace mayfly::virtio::net {

// Section 5.1.3: feature bits. CSUM and HOST_*: what the driver may leave to us; GUEST_*: what we may leave
// to it.
inline constexpr std::uint64_t kFeatureCsum = 1ULL << 0U;
inline constexpr std::uint64_t kFeatureGuestCsum = 1ULL << 1U;
inline constexpr std::uint64_t kFeatureMtu = 1ULL << 3U;
inline constexpr std::uint64_t kFeatureMac = 1ULL << 5U;
inline constexpr std::uint64_t kFeatureGuestTso4 = 1ULL << 7U;
inline constexpr std::uint64_t kFeatureGuestTso6 = 1ULL << 8U;
inline constexpr std::uint64_t kFeatureGuestEcn = 1ULL << 9U;
inline constexpr std::uint64_t kFeatureGuestUfo = 1ULL << 10U;
inline constexpr std::uint64_t kFeatureHostTso4 = 1ULL << 11U;
inline constexpr std::uint64_t kFeatureHostTso6 = 1ULL << 12U;
inline constexpr std::uint64_t kFeatureHostEcn = 1ULL << 13U;
inline constexpr std::uint64_t kFeatureHostUfo = 1ULL << 14U;
inline constexpr std::uint64_t kFeatureMrgRxbuf = 1ULL << 15U;
inline constexpr std::uint64_t kFeatureStatus = 1ULL << 16U;

// What a driver's features amount to: bits without those that they require (5.1.3.1) mean nothing.
std::uint64_t with_requirements(std::uint64_t features);

// Section 5.1.6: values of Header::flags and Header::gso_type.
inline constexpr std::uint8_t kFlagNeedsCsum = 1;
inline constexpr std::uint8_t kFlagDataValid = 2;
inline constexpr std::uint8_t kGsoNone = 0;
inline constexpr std::uint8_t kGsoTcpV4 = 1;
inline constexpr std::uint8_t kGsoUdp = 3;
inline constexpr std::uint8_t kGsoTcpV6 = 4;
inline constexpr std::uint8_t kGsoEcn = 0x80;  // with one of the two TCPs

// struct virtio_net_hdr, as it is with VERSION_1: in front of each frame, both ways.
struct Header {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = kGsoNone;
  base::Le16 hdr_len = {};
  base::Le16 gso_size = {};
  base::Le16 csum_start = {};   // from the start of the frame
  base::Le16 csum_offset = {};  // from csum_start
  base::Le16 num_buffers = {};  // chains that a received frame is spread over
};
static_assert(sizeof(Header) == 12 && base::Wire<Header>);

using MacAddress = std::array<std::uint8_t, 6>;

// "AA:BB:CC:DD:EE:FF", in any case; nothing for any other text.
std::optional<MacAddress> parse_mac(std::string_view text);
std::string to_text(const MacAddress& mac);
// Whether an interface may have it: neither multicast nor zero.
bool is_station(const MacAddress& mac);
// For an interface that was given none: 02, then 40 bits of the FNV-1a hash of both names, so that it is the
// same each time, and another one for another tap.
MacAddress default_mac(std::string_view interface_id, std::string_view tap);

// The start of an Ethernet II frame.
struct EthernetHeader {
  MacAddress destination{};
  MacAddress source{};
  std::array<std::uint8_t, 2> type{};
};
static_assert(sizeof(EthernetHeader) == 14 && base::Wire<EthernetHeader>);

// Frames are from an Ethernet header to what the largest TSO packet comes to (65550, section 5.1.6.3.1, and
// room for VLAN tags), without struct virtio_net_hdr.
inline constexpr std::uint64_t kSmallestFrame = sizeof(EthernetHeader);
inline constexpr std::uint64_t kLargestFrame = 65562;

// Why a frame of the driver's is not sent.
enum class Refusal : std::uint8_t {
  kLength,    // not from kSmallestFrame to kLargestFrame
  kOffload,   // asks for what was not negotiated, or for what makes no sense
  kChecksum,  // its place is not inside the frame, behind the Ethernet header
};

// The header to send with a frame of `length` bytes that came with `header`: what the driver has no business
// with is left out. `features`: with_requirements() of what was negotiated.
std::expected<Header, Refusal> check_transmitted(const Header& header, std::uint64_t length,
                                                 std::uint64_t features);

// Whether a frame with this header may be given to a driver with these features (a host may have queued it
// when another driver was running). Takes out flags that the driver did not ask for.
bool fit_for_driver(Header& header, std::uint64_t features);

}  // namespace mayfly::virtio::net
