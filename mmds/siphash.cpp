#include "mmds/siphash.h"

#include <sys/random.h>

#include <bit>
#include <cerrno>

namespace mayfly::mmds {

namespace {

class SipState {
 public:
  explicit SipState(const SipKey& key)
      : v0_(key.low ^ 0x736f6d6570736575),
        v1_(key.high ^ 0x646f72616e646f6d ^ 0xee),
        v2_(key.low ^ 0x6c7967656e657261),
        v3_(key.high ^ 0x7465646279746573) {}
  void absorb(std::uint64_t word) {
    v3_ ^= word;
    rounds(2);
    v0_ ^= word;
  }
  SipHash finish() {
    v2_ ^= 0xee;
    rounds(4);
    const std::uint64_t first = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    rounds(4);
    return {first, v0_ ^ v1_ ^ v2_ ^ v3_};
  }

 private:
  void rounds(int count) {
    for (; count > 0; --count) {
      v0_ += v1_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v3_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ += v3_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ += v1_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v2_ = std::rotl(v2_, 32);
    }
  }
  std::uint64_t v0_, v1_, v2_, v3_;
};

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) word |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return word;
}

}  // namespace

SipHash siphash(const SipKey& key, std::span<const std::byte> bytes) {
  SipState state(key);
  const std::uint64_t length = bytes.size();
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) state.absorb(little_endian(bytes.first(8)));
  state.absorb(little_endian(bytes) | length << 56U);
  return state.finish();
}

base::Status random_bytes(std::span<std::byte> out) {
  while (!out.empty()) {
    const ssize_t n = ::getrandom(out.data(), out.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return base::fail_errno(errno, "ask the kernel for random bytes");
    out = out.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

base::Result<SipKey> random_key() {
  SipKey key;
  TRY(random_bytes(std::as_writable_bytes(std::span(&key, 1))));
  return key;
}

}  // namespace mayfly::mmds
