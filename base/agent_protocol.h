// What `mayfly` and `mayfly-init` say to each other over vsock.
//
// A session runs one command. Its initiator opens one stream for control and one for each of the command's
// standard streams, so that the command's output, errors and input never wait for one another and each
// end of file is a half-close. Every stream starts with a Preamble; nothing is framed after it on a
// standard stream. On the control stream each message is a FrameHeader and a body.
//
// The first session is opened by the guest, at boot, to the host's port kHostPort; mayfly-init listens on
// kGuestPort for further ones, opened by the host. Integers are little-endian.
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace mayfly::base::agent {

inline constexpr std::uint32_t kHostPort = 1024;
inline constexpr std::uint32_t kGuestPort = 1024;
inline constexpr std::uint32_t kMagic = 0x594c464d;  // "MFLY"
inline constexpr std::uint16_t kVersion = 1;

enum class Stream : std::uint16_t { kControl = 0, kStdin = 1, kStdout = 2, kStderr = 3 };

struct Preamble {
  Le32 magic;
  Le16 version;
  Le16 stream;   // Stream
  Le32 session;  // the same number on all streams of a session, chosen by the initiator
};
static_assert(sizeof(Preamble) == 12 && Wire<Preamble>);

enum class Frame : std::uint32_t {
  // guest to host
  kHello = 1,    // Hello; first on a session the guest opens
  kStarted = 2,  // Started
  kFailed = 3,   // Failed, then a message in words: the command could not be started
  kExited = 4,   // Exited: the command ended; its output streams end on their own once all was sent
  // host to guest
  kStart = 16,       // Start, then its strings
  kSignal = 17,      // Signal: to the command's process group
  kWindowSize = 18,  // WindowSize, for a terminal
  kShutdown = 19,    // no body: sync, unmount, reset the machine
};

inline constexpr std::uint32_t kLongestFrame = 1U << 20U;  // bytes of body

struct FrameHeader {
  Le32 type;    // Frame
  Le32 length;  // of the body, bytes
};
static_assert(sizeof(FrameHeader) == 8 && Wire<FrameHeader>);

// Guest clock readings are CLOCK_MONOTONIC nanoseconds: the host places them on its own clock by the moment
// the frame arrived.
struct Hello {
  Le64 init_started_ns;  // when PID 1 began
  Le64 now_ns;           // when this frame was sent
};
static_assert(sizeof(Hello) == 16 && Wire<Hello>);

inline constexpr std::uint32_t kStartTty = 1;  // Start::flags: the command gets a terminal; no stderr stream
// Start::gid: the primary group that the guest's /etc/passwd has for the user, or 0.
inline constexpr std::uint32_t kGroupOfUser = 0xffffffff;

struct Start {
  Le32 flags;
  Le32 uid;
  Le32 gid;
  Le16 rows;  // of the terminal
  Le16 columns;
  Le32 argument_count;     // >= 1
  Le32 environment_count;  // K=V strings
  // Then NUL-terminated strings: working directory ("" is "/"), arguments, environment.
};
static_assert(sizeof(Start) == 24 && Wire<Start>);

struct Started {
  Le64 now_ns;
  Le32 pid;
  Le32 reserved;
};
static_assert(sizeof(Started) == 16 && Wire<Started>);

struct Failed {
  Le32 exit_status;  // 126: cannot be run, 127: not found, 125: anything else
};
static_assert(sizeof(Failed) == 4 && Wire<Failed>);

struct Exited {
  Le64 now_ns;
  Le32 exit_status;  // as a shell has it: 0–255, or 128 + n when signal n killed it
  Le32 signal;       // n, or 0
};
static_assert(sizeof(Exited) == 16 && Wire<Exited>);

struct Signal {
  Le32 number;  // Linux x86 signal number, 1–64
};
static_assert(sizeof(Signal) == 4 && Wire<Signal>);

struct WindowSize {
  Le16 rows;
  Le16 columns;
};
static_assert(sizeof(WindowSize) == 4 && Wire<WindowSize>);

}  // namespace mayfly::base::agent
