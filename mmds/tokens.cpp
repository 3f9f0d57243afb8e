#include "mmds/tokens.h"

#include <sodium.h>

#include <array>
#include <optional>
#include <span>

namespace mayfly::mmds {

namespace {

// In this process only, so in its byte order.
struct Claim {
  std::int64_t expires = 0;  // ns of Clock
  std::uint64_t nonce = 0;
};
struct Token {
  Claim claim;
  SipHash seal{};
};
static_assert(sizeof(Token) == 32);
constexpr std::size_t kTextSize = 2 * sizeof(Token);

SipHash seal_of(const SipKey& key, const Claim& claim) {
  return siphash(key, std::as_bytes(std::span(&claim, 1)));
}

std::int64_t nanoseconds(Time time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

std::optional<Token> decode(std::string_view text) {
  if (text.size() != kTextSize) return std::nullopt;
  Token token;
  std::size_t size = 0;
  const int bad = ::sodium_hex2bin(reinterpret_cast<unsigned char*>(&token), sizeof(token), text.data(),
                                   text.size(), nullptr, &size, nullptr);
  if (bad != 0 || size != sizeof(token)) return std::nullopt;
  return token;
}

}  // namespace

base::Result<Tokens> Tokens::create() {
  return Tokens(TRY(random_key()));
}

base::Result<std::string> Tokens::issue(std::chrono::seconds ttl, Time now) const {
  Token token;
  token.claim.expires = nanoseconds(now + ttl);
  TRY(random_bytes(std::as_writable_bytes(std::span(&token.claim.nonce, 1))));
  token.seal = seal_of(key_, token.claim);
  std::array<char, kTextSize + 1> text;
  ::sodium_bin2hex(text.data(), text.size(), reinterpret_cast<const unsigned char*>(&token), sizeof(token));
  return text.data();
}

bool Tokens::valid(std::string_view token, Time now) const {
  const auto decoded = decode(token);
  if (!decoded) return false;
  const SipHash seal = seal_of(key_, decoded->claim);
  // The time this takes does not say how much of the seal was right.
  return ::sodium_memcmp(seal.data(), decoded->seal.data(), sizeof(seal)) == 0 &&
         nanoseconds(now) < decoded->claim.expires;
}

}  // namespace mayfly::mmds
