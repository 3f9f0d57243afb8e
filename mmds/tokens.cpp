#include "mmds/tokens.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
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

std::optional<unsigned> digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  return std::nullopt;
}

std::optional<Token> decode(std::string_view text) {
  if (text.size() != kTextSize) return std::nullopt;
  std::array<std::byte, sizeof(Token)> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto high = digit(text[2 * i]);
    const auto low = digit(text[2 * i + 1]);
    if (!high || !low) return std::nullopt;
    bytes[i] = static_cast<std::byte>(*high << 4U | *low);
  }
  Token token;
  std::memcpy(&token, bytes.data(), sizeof(token));
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
  std::string text;
  for (const std::byte byte : std::as_bytes(std::span(&token, 1))) {
    text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  }
  return text;
}

bool Tokens::valid(std::string_view token, Time now) const {
  const auto decoded = decode(token);
  if (!decoded) return false;
  const SipHash seal = seal_of(key_, decoded->claim);
  // Both words are looked at together, so that the time taken says nothing about either.
  const std::uint64_t difference = (seal[0] ^ decoded->seal[0]) | (seal[1] ^ decoded->seal[1]);
  return difference == 0 && nanoseconds(now) < decoded->claim.expires;
}

}  // namespace mayfly::mmds
