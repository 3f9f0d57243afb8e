#include "mmds/config.h"

#include <fmt/format.h>

#include <charconv>

namespace mayfly::mmds {

std::optional<Ipv4Address> parse_ipv4(std::string_view text) {
  Ipv4Address address{};
  for (std::size_t i = 0; i < address.size(); ++i) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), address[i]);
    const auto digits = static_cast<std::size_t>(end - text.data());
    if (error != std::errc() || (digits > 1 && text[0] == '0')) return std::nullopt;
    text.remove_prefix(digits);
    if (i + 1 == address.size()) break;
    if (!text.starts_with('.')) return std::nullopt;
    text.remove_prefix(1);
  }
  if (!text.empty()) return std::nullopt;
  return address;
}

std::string to_text(const Ipv4Address& address) {
  return fmt::format("{}", fmt::join(address, "."));
}

bool is_link_local(const Ipv4Address& address) {
  return address[0] == 169 && address[1] == 254 && address[2] != 0 && address[2] != 255;
}

}  // namespace mayfly::mmds
