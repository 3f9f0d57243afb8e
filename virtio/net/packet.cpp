#include "virtio/net/packet.h"

#include <fmt/format.h>

#include <algorithm>

namespace mayfly::virtio::net {

namespace {

// Whether `gso_type` is one of those that the features in `tcp4`, `tcp6`, `udp` and `ecn` stand for, all of
// which are bits of `features`.
struct GsoFeatures {
  std::uint64_t tcp4;
  std::uint64_t tcp6;
  std::uint64_t udp;
  std::uint64_t ecn;
};
constexpr GsoFeatures kHostGso = {kFeatureHostTso4, kFeatureHostTso6, kFeatureHostUfo, kFeatureHostEcn};
constexpr GsoFeatures kGuestGso = {kFeatureGuestTso4, kFeatureGuestTso6, kFeatureGuestUfo, kFeatureGuestEcn};

bool is_negotiated(std::uint8_t gso_type, std::uint64_t features, const GsoFeatures& gso) {
  const bool ecn = (gso_type & kGsoEcn) != 0;
  if (ecn && (features & gso.ecn) == 0) return false;
  switch (gso_type & ~kGsoEcn) {
    case kGsoTcpV4:
      return (features & gso.tcp4) != 0;
    case kGsoTcpV6:
      return (features & gso.tcp6) != 0;
    case kGsoUdp:
      return !ecn && (features & gso.udp) != 0;
    default:
      return false;
  }
}

std::uint64_t drop_unless(std::uint64_t features, std::uint64_t any_of, std::uint64_t dependent) {
  return (features & any_of) != 0 ? features : features & ~dependent;
}

std::optional<std::uint8_t> hex_digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<std::uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<std::uint8_t>(c - 'a' + 10);
  if (c >= 'A' && c <= 'F') return static_cast<std::uint8_t>(c - 'A' + 10);
  return std::nullopt;
}

}  // namespace

std::uint64_t with_requirements(std::uint64_t features) {
  // Section 5.1.3.1.
  features =
      drop_unless(features, kFeatureGuestCsum, kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestUfo);
  features = drop_unless(features, kFeatureGuestTso4 | kFeatureGuestTso6, kFeatureGuestEcn);
  features = drop_unless(features, kFeatureCsum, kFeatureHostTso4 | kFeatureHostTso6 | kFeatureHostUfo);
  return drop_unless(features, kFeatureHostTso4 | kFeatureHostTso6, kFeatureHostEcn);
}

std::optional<MacAddress> parse_mac(std::string_view text) {
  MacAddress mac{};
  if (text.size() != 3 * mac.size() - 1) return std::nullopt;
  for (std::size_t i = 0; i < mac.size(); ++i) {
    const auto high = hex_digit(text[3 * i]);
    const auto low = hex_digit(text[3 * i + 1]);
    const bool last = i + 1 == mac.size();
    if (!high || !low || (!last && text[3 * i + 2] != ':')) return std::nullopt;
    mac[i] = static_cast<std::uint8_t>(*high << 4U | *low);
  }
  return mac;
}

std::string to_text(const MacAddress& mac) {
  return fmt::format("{:02x}", fmt::join(mac, ":"));
}

bool is_station(const MacAddress& mac) {
  const bool multicast = (mac[0] & 1U) != 0;
  return !multicast && mac != MacAddress{};
}

MacAddress default_mac(std::string_view interface_id, std::string_view tap) {
  constexpr std::uint64_t kOffsetBasis = 0xcbf2'9ce4'8422'2325;
  constexpr std::uint64_t kPrime = 0x100'0000'01b3;
  std::uint64_t hash = kOffsetBasis;
  const auto add = [&](std::uint8_t byte) { hash = (hash ^ byte) * kPrime; };
  for (const char c : interface_id) add(static_cast<std::uint8_t>(c));
  add(0);  // between the names, neither of which has one
  for (const char c : tap) add(static_cast<std::uint8_t>(c));
  // Locally administered, and no multicast address.
  MacAddress mac = {0x02};
  for (std::size_t i = 1; i < mac.size(); ++i) mac[i] = static_cast<std::uint8_t>(hash >> (8 * i));
  return mac;
}

std::expected<Header, Refusal> check_transmitted(const Header& header, std::uint64_t length,
                                                 std::uint64_t features) {
  if (length < kSmallestFrame || length > kLargestFrame) return std::unexpected(Refusal::kLength);
  Header checked;
  // Section 5.1.6.2.1: only NEEDS_CSUM is the driver's to set; DATA_VALID and unknown flags are ignored.
  if ((header.flags & kFlagNeedsCsum) != 0) {
    if ((features & kFeatureCsum) == 0) return std::unexpected(Refusal::kOffload);
    // Two bytes inside the frame, and not among its addresses: those were checked, and must not be written.
    const std::uint64_t place = std::uint64_t{header.csum_start} + header.csum_offset;
    if (header.csum_start < sizeof(EthernetHeader) || place + 2 > length) {
      return std::unexpected(Refusal::kChecksum);
    }
    checked.flags = kFlagNeedsCsum;
    checked.csum_start = header.csum_start;
    checked.csum_offset = header.csum_offset;
  }
  if (header.gso_type != kGsoNone) {
    // Each segment has a checksum of its own, so the packet's is left to whoever cuts it.
    if (!is_negotiated(header.gso_type, features, kHostGso) || checked.flags == 0 || header.gso_size == 0) {
      return std::unexpected(Refusal::kOffload);
    }
    checked.gso_type = header.gso_type;
    checked.gso_size = header.gso_size;
  }
  // A hint only (5.1.6.2.2), which may be anything.
  checked.hdr_len = static_cast<std::uint16_t>(std::min<std::uint64_t>(header.hdr_len, length));
  return checked;
}

bool fit_for_driver(Header& header, std::uint64_t features) {
  if (header.gso_type != kGsoNone && !is_negotiated(header.gso_type, features, kGuestGso)) return false;
  if ((features & kFeatureGuestCsum) != 0) return true;
  if ((header.flags & kFlagNeedsCsum) != 0) return false;
  header.flags = 0;  // section 5.1.6.4.1
  return true;
}

}  // namespace mayfly::virtio::net
