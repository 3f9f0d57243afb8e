#include "mmds/tokens.h"

#include <catch2/catch.hpp>

#include <set>

using namespace mayfly;
using namespace mayfly::mmds;
using std::chrono::seconds;

TEST_CASE("mmds: SipHash-2-4 with 128 bits") {
  // The reference vectors: key 00…0f, input 00, 01, ….
  const SipKey key = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
  CHECK(siphash(key, {}) == SipHash{0xe6a825ba047f81a3, 0x930255c71472f66d});
  const std::array<std::byte, 1> one = {};
  CHECK(siphash(key, one) == SipHash{0x44af996bd8c187da, 0x45fc229b11597634});
}

TEST_CASE("mmds tokens: good until their time is over") {
  const auto tokens = Tokens::create().value();
  const Time start = Time(seconds(1000));
  const auto token = tokens.issue(seconds(10), start).value();
  CHECK(token.size() == 64);
  CHECK(tokens.valid(token, start));
  CHECK(tokens.valid(token, start + seconds(10) - std::chrono::nanoseconds(1)));
  CHECK_FALSE(tokens.valid(token, start + seconds(10)));
}

TEST_CASE("mmds tokens: none is like another") {
  const auto tokens = Tokens::create().value();
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(tokens.issue(seconds(1), Time()).value());
  CHECK(seen.size() == 1000);
}

TEST_CASE("mmds tokens: what was changed anywhere is none") {
  const auto tokens = Tokens::create().value();
  const auto token = tokens.issue(seconds(10), Time()).value();
  for (std::size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = changed[i] == '0' ? '1' : '0';
    CHECK_FALSE(tokens.valid(changed, Time()));
    changed[i] = 'g';
    CHECK_FALSE(tokens.valid(changed, Time()));
  }
  CHECK_FALSE(tokens.valid("", Time()));
  CHECK_FALSE(tokens.valid(token.substr(1), Time()));
  CHECK_FALSE(tokens.valid(token + "0", Time()));
  CHECK_FALSE(tokens.valid(std::string(64, '0'), Time()));
}

TEST_CASE("mmds tokens: another service's are none") {
  const auto token = Tokens::create().value().issue(seconds(10), Time()).value();
  CHECK_FALSE(Tokens::create().value().valid(token, Time()));
}
