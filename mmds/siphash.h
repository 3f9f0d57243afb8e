// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein): a keyed hash whose values nobody can tell or
// foresee without the key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"

namespace mayfly::mmds {

struct SipKey {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
};

using SipHash = std::array<std::uint64_t, 2>;

SipHash siphash(const SipKey& key, std::span<const std::byte> bytes);

// Fills `out` from the kernel's generator; an error where it has none.
base::Status random_bytes(std::span<std::byte> out);
base::Result<SipKey> random_key();

}  // namespace mayfly::mmds
