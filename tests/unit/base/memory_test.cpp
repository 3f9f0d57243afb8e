#include <catch2/catch.hpp>

#include "base/guest_memory.h"

using namespace mayfly::base;

TEST_CASE("smoke") { REQUIRE(GuestMemory::create({}).has_value()); }
