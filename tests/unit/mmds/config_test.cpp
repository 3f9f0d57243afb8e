#include "mmds/config.h"

#include <catch2/catch.hpp>

using namespace mayfly::mmds;

TEST_CASE("mmds: addresses") {
  CHECK(parse_ipv4("169.254.169.254") == kDefaultAddress);
  CHECK(parse_ipv4("0.0.0.0") == Ipv4Address{});
  CHECK(to_text(kDefaultAddress) == "169.254.169.254");
  for (const char* text : {"", "1.2.3", "1.2.3.", "1.2.3.4.", "1.2.3.4.5", "1.2.3.256", "1.2.3.-4",
                           "1.2.3.04", " 1.2.3.4", "1.2.3.4 ", "1..3.4", "a.b.c.d", "1.2.3.0x4"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_ipv4(text));
  }
  CHECK(is_link_local({169, 254, 1, 0}));
  CHECK(is_link_local({169, 254, 254, 255}));
  for (const Ipv4Address& other :
       {Ipv4Address{169, 254, 0, 1}, {169, 254, 255, 1}, {169, 253, 1, 1}, {10, 0, 0, 1}}) {
    CHECK_FALSE(is_link_local(other));
  }
}
