// Session tokens of version 2.
#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/result.h"
#include "mmds/clock.h"
#include "mmds/siphash.h"

namespace mayfly::mmds {

inline constexpr std::chrono::seconds kLeastTtl{1};
inline constexpr std::chrono::seconds kMostTtl{21600};

// A token says itself until when it is good: the time and a random number, sealed with a keyed hash. So there
// is no table of tokens that a guest could fill, and none is lost because others were asked for. The key is
// made here and never leaves; another VMM, or the same machine in another, takes none of these tokens.
//
// Constant once created: any thread.
class Tokens {
 public:
  static base::Result<Tokens> create();

  // A new one, good until `now + ttl`: 64 characters, 0-9 and a-f.
  [[nodiscard]] base::Result<std::string> issue(std::chrono::seconds ttl, Time now) const;
  // Whether it is one of ours, as it was issued, and still good. Takes the same time for all that has the
  // form of a token.
  [[nodiscard]] bool valid(std::string_view token, Time now) const;

 private:
  explicit Tokens(const SipKey& key) : key_(key) {}
  SipKey key_;
};

}  // namespace mayfly::mmds
