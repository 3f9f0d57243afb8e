#include "virtio/vsock/text_protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace mayfly::virtio::vsock {

std::size_t ConnectLine::take(std::string_view bytes) {
  bytes = bytes.substr(0, room());
  const std::size_t newline = bytes.find('\n');
  if (newline != std::string_view::npos) bytes = bytes.substr(0, newline + 1);
  std::ranges::copy(bytes, line_.begin() + static_cast<std::ptrdiff_t>(size_));
  size_ += bytes.size();
  return bytes.size();
}

std::optional<std::uint32_t> ConnectLine::port() const {
  constexpr std::string_view kVerb = "CONNECT ";
  if (!complete()) return std::nullopt;
  std::string_view text(line_.data(), size_ - 1);
  if (!text.starts_with(kVerb)) return std::nullopt;
  text.remove_prefix(kVerb.size());
  std::uint32_t port = 0;
  // An unsigned number with no sign, space or prefix is all that from_chars takes.
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return port;
}

std::string ok_line(std::uint32_t host_port) {
  return fmt::format("OK {}\n", host_port);
}

}  // namespace mayfly::virtio::vsock
