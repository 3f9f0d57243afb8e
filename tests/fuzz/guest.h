// The guest that a fuzzer's device serves.
#pragma once

#include "tests/support/virtio_driver.h"

namespace mayfly::fuzz {

inline constexpr std::uint64_t kMemory = 0x40000;
// Where the rings and what they point to are; what is above keeps its bytes from run to run.
inline constexpr std::uint64_t kUsed = 0x18000;

// The same memory in each run, because making it costs more than most runs; zeroed up to kUsed.
inline test::FakeGuest& fresh_guest() {
  static test::FakeGuest guest(kMemory);
  guest.fill(base::GuestAddress(0), kUsed, std::byte{0});
  return guest;
}

}  // namespace mayfly::fuzz
