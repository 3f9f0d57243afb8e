// The line a host program sends to reach a guest port, and the answer: "CONNECT <port>\n", "OK <port>\n".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mayfly::virtio::vsock {

// Collects the line. Bytes after its newline are the connection's data and are never taken.
class ConnectLine {
 public:
  // "CONNECT 4294967295\n" has 19 bytes; leading zeros may make it longer.
  static constexpr std::size_t kLongest = 32;

  // How many bytes more the line may have.
  [[nodiscard]] std::size_t room() const { return kLongest - size_; }
  // Looks at bytes that follow what was taken so far (at most room()); how many of them belong to the line.
  std::size_t take(std::string_view bytes);
  [[nodiscard]] bool complete() const { return size_ > 0 && line_[size_ - 1] == '\n'; }
  // The port, once complete(): nothing when the line is not "CONNECT ", decimal digits, newline, or the
  // number does not fit in 32 bits.
  [[nodiscard]] std::optional<std::uint32_t> port() const;

 private:
  std::array<char, kLongest> line_{};
  std::size_t size_ = 0;
};

std::string ok_line(std::uint32_t host_port);

}  // namespace mayfly::virtio::vsock
