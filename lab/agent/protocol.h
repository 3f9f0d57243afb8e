// The bytes between lab/run (outside) and the agent (inside), over one virtio-serial port ("slot") a command.
// Port 1 is the keeper's, for one kConfigure; slot N is port 1 + N.
//
// Either direction is a sequence of frames: type (1 byte), length (4 bytes, little-endian), payload. A byte 0
// where a type is expected is skipped. lab/run begins with kPreamble zero bytes, longer than any frame, so
// that whatever a predecessor left half sent is finished by them; the answer is found by the 16 random bytes
// of its hello.
//
// Standard input, output and error each have a window: at most kWindow bytes may be under way, and the
// receiver gives back credit as it passes bytes on. So a stream that nobody reads never holds up the others,
// or a signal.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lab {

enum class Frame : std::uint8_t {
  kSkip = 0,
  // lab/run to agent
  kHello = 1,      // 16 bytes, sent back; ends whatever the slot was doing
  kStart = 2,      // see StartHeader
  kStartMore = 3,  // a piece of a long start message; kStart is its last piece
  kStdin = 4,
  kStdinEnd = 5,
  kSignal = 6,      // 1 byte, to the command's process group
  kWindowSize = 7,  // rows, columns: 2 bytes each
  kKill = 8,        // SIGKILL to the command and everything it started
  kPing = 9,
  kCloseStream = 10,  // 1 byte: 1 or 2; nobody reads that output any more
  // keeper to agent
  kConfigure = 16,  // see kSeedSize
  // agent to lab/run
  kHelloBack = 32,
  kStdout = 33,
  kStderr = 34,
  kExit = 35,   // 4 bytes: the exit status, as a shell would see it
  kError = 36,  // 4 bytes exit status, then text: the command was not started
  kPong = 37,
  // both ways
  kCredit = 64,  // stream (1 byte: 0, 1 or 2), bytes (4 bytes)
};

inline constexpr std::size_t kHeaderSize = 5;
inline constexpr std::size_t kMaxPayload =
    32 * 1024 - kHeaderSize;  // a frame is what the driver takes in one write
inline constexpr std::size_t kPreamble = 40 * 1024;
inline constexpr std::size_t kWindow = 1024 * 1024;
inline constexpr std::size_t kMaxStart = 8 * 1024 * 1024;
static_assert(kPreamble > kMaxPayload + kHeaderSize);

// Payload of the configure message: kSeedSize random bytes, then NUL-terminated strings: the number of slots,
// the folder of results, the folder of the kernel's modules.
inline constexpr std::size_t kSeedSize = 32;

// Payload of the start message: this header, then NUL-terminated strings: the working directory, argc
// arguments, envc KEY=VALUE. Both sides are x86, so integers are as they lie in memory.
struct StartHeader {
  std::uint32_t flags;
  std::uint32_t umask;
  std::uint64_t time_ns;  // CLOCK_REALTIME outside
  std::uint16_t rows;
  std::uint16_t columns;
  std::uint32_t argc;
  std::uint32_t envc;
  std::uint32_t reserved;
};
static_assert(sizeof(StartHeader) == 32);

inline constexpr std::uint32_t kFlagTerminal = 1;        // standard input and output are a terminal
inline constexpr std::uint32_t kFlagTerminalStderr = 2;  // and so is standard error
inline constexpr std::uint32_t kFlagForgetFiles =
    4;  // drop cached file contents: files outside may have changed

}  // namespace lab
