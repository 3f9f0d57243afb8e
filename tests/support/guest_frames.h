// Frames as a guest's network stack makes and reads them, written apart from those of mmds/: what one side
// gets wrong the other must not.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::test {

using Frame = std::vector<std::byte>;

struct Ends {
  std::array<std::uint8_t, 6> guest_mac = {0x02, 0xfe, 1, 2, 3, 4};
  std::array<std::uint8_t, 6> service_mac = {0x02, 0x4d, 0x4d, 0x44, 0x53, 0x01};
  std::array<std::uint8_t, 4> guest_ip = {10, 0, 0, 2};
  std::array<std::uint8_t, 4> service_ip = {169, 254, 169, 254};
};

inline constexpr std::uint8_t kTcpFin = 1;
inline constexpr std::uint8_t kTcpSyn = 2;
inline constexpr std::uint8_t kTcpRst = 4;
inline constexpr std::uint8_t kTcpAck = 16;

struct Tcp {
  std::uint16_t from_port = 40000;
  std::uint16_t to_port = 80;
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
  std::uint8_t flags = kTcpAck;
  std::uint16_t window = 65535;
  std::optional<std::uint16_t> mss = {};
  std::string payload = {};
};

inline void add8(Frame& frame, unsigned value) {
  frame.push_back(static_cast<std::byte>(value & 0xffU));
}
inline void add16(Frame& frame, unsigned value) {
  add8(frame, value >> 8U);
  add8(frame, value);
}
inline void add32(Frame& frame, std::uint32_t value) {
  add16(frame, value >> 16U);
  add16(frame, value & 0xffffU);
}
template <std::size_t kSize>
void add(Frame& frame, const std::array<std::uint8_t, kSize>& bytes) {
  for (const std::uint8_t byte : bytes) add8(frame, byte);
}
inline unsigned byte_at(const Frame& frame, std::size_t at) {
  return std::to_integer<unsigned>(frame.at(at));
}
inline unsigned word_at(const Frame& frame, std::size_t at) {
  return byte_at(frame, at) << 8U | byte_at(frame, at + 1);
}
inline std::uint32_t long_at(const Frame& frame, std::size_t at) {
  return std::uint32_t{word_at(frame, at)} << 16U | word_at(frame, at + 2);
}

// The Internet checksum of frame[from, to), with `start` added.
inline unsigned internet_checksum(const Frame& frame, std::size_t from, std::size_t to, unsigned start = 0) {
  unsigned sum = start;
  for (std::size_t i = from; i < to; ++i) {
    sum += (i - from) % 2 == 0 ? byte_at(frame, i) << 8U : byte_at(frame, i);
    sum = (sum & 0xffffU) + (sum >> 16U);
  }
  return ~sum & 0xffffU;
}
inline unsigned pseudo_header(const Frame& frame, std::size_t tcp_length) {
  return word_at(frame, 26) + word_at(frame, 28) + word_at(frame, 30) + word_at(frame, 32) + 6 +
         static_cast<unsigned>(tcp_length);
}
inline void set16(Frame& frame, std::size_t at, unsigned value) {
  frame.at(at) = static_cast<std::byte>(value >> 8U & 0xffU);
  frame.at(at + 1) = static_cast<std::byte>(value & 0xffU);
}

// Both checksums of an IPv4 frame without IP options.
inline void sum_up(Frame& frame) {
  set16(frame, 24, 0);
  set16(frame, 24, internet_checksum(frame, 14, 34));
  set16(frame, 50, 0);
  set16(frame, 50, internet_checksum(frame, 34, frame.size(), pseudo_header(frame, frame.size() - 34)));
}

inline Frame tcp_frame(const Tcp& tcp, const Ends& ends = {}) {
  Frame frame;
  add(frame, ends.service_mac);
  add(frame, ends.guest_mac);
  add16(frame, 0x0800);
  const std::size_t options = tcp.mss ? 4 : 0;
  add16(frame, 0x4500);
  add16(frame, static_cast<unsigned>(40 + options + tcp.payload.size()));
  add32(frame, 0x1234'4000);
  add16(frame, 0x4006);
  add16(frame, 0);
  add(frame, ends.guest_ip);
  add(frame, ends.service_ip);
  add16(frame, tcp.from_port);
  add16(frame, tcp.to_port);
  add32(frame, tcp.seq);
  add32(frame, tcp.ack);
  add8(frame, static_cast<unsigned>((20 + options) / 4) << 4U);
  add8(frame, tcp.flags);
  add16(frame, tcp.window);
  add32(frame, 0);
  if (tcp.mss) add32(frame, 0x0204'0000U | *tcp.mss);
  for (const char c : tcp.payload) add8(frame, static_cast<unsigned char>(c));
  sum_up(frame);
  return frame;
}

inline Frame arp_request(const Ends& ends = {}) {
  Frame frame;
  add(frame, std::array<std::uint8_t, 6>{255, 255, 255, 255, 255, 255});
  add(frame, ends.guest_mac);
  add16(frame, 0x0806);
  add32(frame, 0x0001'0800);
  add32(frame, 0x0604'0001);
  add(frame, ends.guest_mac);
  add(frame, ends.guest_ip);
  add(frame, std::array<std::uint8_t, 6>{});
  add(frame, ends.service_ip);
  return frame;
}

inline bool is_tcp_frame(const Frame& frame) {
  return frame.size() >= 54 && word_at(frame, 12) == 0x0800;
}

// A frame of the service's; nothing when anything about it is wrong.
inline std::optional<Tcp> read_tcp(const Frame& frame, const Ends& ends = {}) {
  if (!is_tcp_frame(frame)) return std::nullopt;
  Frame addresses;
  add(addresses, ends.guest_mac);
  add(addresses, ends.service_mac);
  for (std::size_t i = 0; i < 12; ++i) {
    if (frame[i] != addresses[i]) return std::nullopt;
  }
  const std::size_t options = (byte_at(frame, 46) >> 4U) * 4 - 20;
  const bool well = word_at(frame, 16) == frame.size() - 14 && byte_at(frame, 14) == 0x45 &&
                    byte_at(frame, 23) == 6 && internet_checksum(frame, 14, 34) == 0 &&
                    internet_checksum(frame, 34, frame.size(), pseudo_header(frame, frame.size() - 34)) == 0;
  if (!well) return std::nullopt;
  Tcp tcp{.from_port = static_cast<std::uint16_t>(word_at(frame, 34)),
          .to_port = static_cast<std::uint16_t>(word_at(frame, 36)),
          .seq = long_at(frame, 38),
          .ack = long_at(frame, 42),
          .flags = static_cast<std::uint8_t>(byte_at(frame, 47)),
          .window = static_cast<std::uint16_t>(word_at(frame, 48))};
  if (options == 4 && word_at(frame, 54) == 0x0204) tcp.mss = static_cast<std::uint16_t>(word_at(frame, 56));
  for (std::size_t i = 54 + options; i < frame.size(); ++i)
    tcp.payload += static_cast<char>(byte_at(frame, i));
  return tcp;
}

}  // namespace mayfly::test
