// Frames of base/agent_protocol.h as mayfly sends and receives them. What arrives was written by a guest that
// may be hostile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/agent_protocol.h"
#include "base/result.h"

namespace mayfly::cli {

// The command to run in the guest.
struct StartRequest {
  bool tty = false;
  std::uint32_t uid = 0;
  std::uint32_t gid = base::agent::kGroupOfUser;
  std::uint16_t rows = 0;  // of the terminal
  std::uint16_t columns = 0;
  std::string directory = {};               // "" is "/"
  std::vector<std::string> arguments = {};  // at least one
  std::vector<std::string> environment = {};
};

// Fails when the frame would be longer than the protocol allows.
base::Result<std::string> encode_start(const StartRequest& request);
std::string encode_signal(int number);
std::string encode_window_size(std::uint16_t rows, std::uint16_t columns);
std::string encode_shutdown();

struct HelloFrame {
  std::uint64_t init_started_ns;
  std::uint64_t now_ns;
};
struct StartedFrame {
  std::uint64_t now_ns;
};
struct FailedFrame {
  int exit_status;      // 125, 126 or 127
  std::string message;  // printable, one line
};
struct ExitedFrame {
  std::uint64_t now_ns;
  int exit_status;  // 0–255
};
using GuestFrame = std::variant<HelloFrame, StartedFrame, FailedFrame, ExitedFrame>;

// Puts the guest's frames together from whatever pieces arrive. Never holds more than the longest frame that
// it accepts.
class FrameReader {
 public:
  static constexpr std::size_t kLongestMessage = 4096;  // of Failed

  // As much of `bytes` as is needed for the next frame is taken off its front. The frame once it is whole,
  // nothing before; an error on whatever the protocol does not have, after which the stream is of no use.
  base::Result<std::optional<GuestFrame>> take(std::span<const std::byte>& bytes);

 private:
  std::string held_;
};

// What the first bytes of a stream say.
struct StreamName {
  base::agent::Stream stream;
  std::uint32_t session;
};
base::Result<StreamName> parse_preamble(std::span<const std::byte> bytes);

// Text from a guest as one line that a terminal can show: control characters become "?", and it ends after
// `limit` bytes.
std::string printable(std::string_view text, std::size_t limit);

}  // namespace mayfly::cli
