#include "mmds/siphash.h"

#include <sodium.h>
#include <sys/random.h>

#include <cerrno>

namespace mayfly::mmds {

SipHash siphash(const SipKey& key, std::span<const std::byte> bytes) {
  SipHash hash;
  static_assert(sizeof(hash) == crypto_shorthash_siphashx24_BYTES);
  static_assert(sizeof(key) == crypto_shorthash_siphashx24_KEYBYTES);
  ::crypto_shorthash_siphashx24(reinterpret_cast<unsigned char*>(hash.data()),
                                reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
                                reinterpret_cast<const unsigned char*>(&key));
  return hash;
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
