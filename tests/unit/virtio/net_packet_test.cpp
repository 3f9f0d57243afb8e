// What a frame may ask for, and addresses.
#include "virtio/net/packet.h"

#include <catch2/catch.hpp>

using namespace mayfly::virtio::net;

namespace {

constexpr std::uint64_t kHost =
    kFeatureCsum | kFeatureHostTso4 | kFeatureHostTso6 | kFeatureHostEcn | kFeatureHostUfo;
constexpr std::uint64_t kGuest =
    kFeatureGuestCsum | kFeatureGuestTso4 | kFeatureGuestTso6 | kFeatureGuestEcn | kFeatureGuestUfo;

Header checksummed(std::uint16_t start, std::uint16_t offset) {
  return {.flags = kFlagNeedsCsum, .csum_start = start, .csum_offset = offset};
}

Header segmented(std::uint8_t type) {
  Header header = checksummed(34, 16);
  header.gso_type = type;
  header.gso_size = 1448;
  header.hdr_len = 54;
  return header;
}

}  // namespace

TEST_CASE("net: features without what they require mean nothing") {
  CHECK(with_requirements(kHost | kGuest | kFeatureMac) == (kHost | kGuest | kFeatureMac));
  CHECK(with_requirements(kHost & ~kFeatureCsum) == 0);
  CHECK(with_requirements(kGuest & ~kFeatureGuestCsum) == 0);
  CHECK(with_requirements(kFeatureCsum | kFeatureHostEcn | kFeatureHostUfo) ==
        (kFeatureCsum | kFeatureHostUfo));
  CHECK(with_requirements(kFeatureGuestCsum | kFeatureGuestEcn) == kFeatureGuestCsum);
}

TEST_CASE("net: the length of a frame") {
  for (const std::uint64_t length :
       {std::uint64_t{0}, std::uint64_t{13}, kLargestFrame + 1, ~std::uint64_t{0}}) {
    CHECK(check_transmitted({}, length, kHost).error() == Refusal::kLength);
  }
  CHECK(check_transmitted({}, 14, kHost));
  CHECK(check_transmitted({}, kLargestFrame, kHost));
}

TEST_CASE("net: a checksum lies inside the frame, and never on its addresses") {
  CHECK(check_transmitted(checksummed(34, 6), 60, kHost)->csum_start == 34);
  CHECK(check_transmitted(checksummed(34, 6), 42, kHost)->csum_offset == 6);
  CHECK(check_transmitted(checksummed(14, 0), 16, kHost));
  for (const auto& [start, offset] :
       {std::pair{34, 7}, {42, 0}, {65535, 65535}, {41, 0}, {0, 6}, {13, 20}, {0, 65535}}) {
    CAPTURE(start, offset);
    const Header header = checksummed(static_cast<std::uint16_t>(start), static_cast<std::uint16_t>(offset));
    CHECK(check_transmitted(header, 42, kHost).error() == Refusal::kChecksum);
  }
  CHECK(check_transmitted(checksummed(34, 6), 60, kHost & ~kFeatureCsum).error() == Refusal::kOffload);
  // Without the flag the fields mean nothing, and go no further.
  Header loose = checksummed(65535, 65535);
  loose.flags = kFlagDataValid | 0xf8;
  const auto checked = check_transmitted(loose, 42, kHost);
  REQUIRE(checked);
  CHECK(checked->flags == 0);
  CHECK(checked->csum_start == 0);
  CHECK(checked->csum_offset == 0);
}

TEST_CASE("net: segmentation as far as it was negotiated") {
  struct Case {
    std::uint8_t type;
    std::uint64_t needs;
  };
  const std::vector<Case> cases = {{kGsoTcpV4, kFeatureHostTso4},
                                   {kGsoTcpV6, kFeatureHostTso6},
                                   {kGsoUdp, kFeatureHostUfo},
                                   {kGsoTcpV4 | kGsoEcn, kFeatureHostEcn},
                                   {kGsoTcpV6 | kGsoEcn, kFeatureHostTso6}};
  for (const auto& [type, needs] : cases) {
    CAPTURE(int{type});
    const auto checked = check_transmitted(segmented(type), 3000, kHost);
    REQUIRE(checked);
    CHECK(checked->gso_type == type);
    CHECK(checked->gso_size == 1448);
    CHECK(check_transmitted(segmented(type), 3000, kHost & ~needs).error() == Refusal::kOffload);
    Header no_size = segmented(type);
    no_size.gso_size = 0;
    CHECK(check_transmitted(no_size, 3000, kHost).error() == Refusal::kOffload);
    Header no_checksum = segmented(type);
    no_checksum.flags = 0;
    CHECK(check_transmitted(no_checksum, 3000, kHost).error() == Refusal::kOffload);
  }
  for (const int type : {2, 5, 6, 0x7f, int{kGsoEcn}, kGsoUdp | kGsoEcn, 0xff}) {
    CAPTURE(type);
    CHECK(check_transmitted(segmented(static_cast<std::uint8_t>(type)), 3000, kHost).error() ==
          Refusal::kOffload);
  }
}

TEST_CASE("net: hints and leftovers of the driver's are not passed on") {
  Header header = segmented(kGsoTcpV4);
  header.hdr_len = 65535;
  header.num_buffers = 77;
  const auto checked = check_transmitted(header, 3000, kHost);
  REQUIRE(checked);
  CHECK(checked->hdr_len == 3000);
  CHECK(checked->num_buffers == 0);
}

TEST_CASE("net: a driver gets no offload that it did not ask for") {
  Header header = segmented(kGsoTcpV4);
  CHECK(fit_for_driver(header, kGuest));
  CHECK_FALSE(fit_for_driver(header, kGuest & ~kFeatureGuestTso4));
  header = checksummed(34, 6);
  CHECK(fit_for_driver(header, kGuest));
  CHECK_FALSE(fit_for_driver(header, 0));
  header = {.flags = kFlagDataValid};
  CHECK(fit_for_driver(header, kGuest));
  CHECK(header.flags == kFlagDataValid);
  CHECK(fit_for_driver(header, 0));
  CHECK(header.flags == 0);
}

TEST_CASE("net: MAC addresses") {
  CHECK(parse_mac("06:00:AC:10:00:02") == MacAddress{6, 0, 0xac, 0x10, 0, 2});
  CHECK(parse_mac("06:00:ac:10:00:02") == MacAddress{6, 0, 0xac, 0x10, 0, 2});
  CHECK(to_text(MacAddress{6, 0, 0xac, 0x10, 0, 2}) == "06:00:ac:10:00:02");
  for (const char* text :
       {"", "06:00:AC:10:00", "06:00:AC:10:00:02:", "06-00-AC-10-00-02", "6:0:AC:10:00:02x",
        "0g:00:AC:10:00:02", "06:00:AC:10:00:0", "060:0:AC:10:00:02"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_mac(text));
  }
  CHECK(is_station({2, 0, 0, 0, 0, 0}));
  CHECK_FALSE(is_station({}));
  CHECK_FALSE(is_station({1, 0, 0x5e, 0, 0, 1}));
  CHECK_FALSE(is_station({0xff, 0xff, 0xff, 0xff, 0xff, 0xff}));
}

TEST_CASE("net: the default address is the same each time, and another one for another interface") {
  const MacAddress mac = default_mac("eth0", "tap0");
  CHECK(mac == default_mac("eth0", "tap0"));
  CHECK(mac != default_mac("eth1", "tap0"));
  CHECK(mac != default_mac("eth0", "tap1"));
  CHECK(default_mac("eth0t", "ap0") != mac);
  CHECK(is_station(mac));
  CHECK(mac[0] == 2);
  // Guests' leases and host rules hang on it.
  CHECK(to_text(mac) == "02:e1:ac:4a:98:5e");
}
