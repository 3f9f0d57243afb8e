// The agent: sessions with the host, and the loop that serves them. It knows sockets but not vsock, so that
// tests drive it over pairs of unix sockets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/agent_protocol.h"
#include "base/unique_fd.h"
#include "rootfs/init/buffer.h"
#include "rootfs/init/poll_set.h"
#include "rootfs/init/session.h"

namespace mayfly::init {

inline constexpr std::size_t kMostSessions = 64;
inline constexpr std::size_t kMostPending = 64;  // connections that have not said yet what they are

class Agent {
 public:
  // Why the machine is to end.
  enum class Ending {
    kAsked,     // by a kShutdown frame, or by a signal to init
    kHostGone,  // the boot session was closed by the host, or never came about
  };

  // `signals` is a signalfd, with at least SIGCHLD. `listener` may be invalid. Neither blocks. `patience`:
  // how long the host may take to complete what it began, ns.
  Agent(base::UniqueFd signals, base::UniqueFd listener, std::uint64_t patience = kPatience);

  // Opens the first session over four connections that may still be under way. To be called at most once.
  // False without memory.
  bool open_boot_session(std::array<base::UniqueFd, kStreams> connecting, std::uint64_t init_started);

  // Serves until the machine is to end. Every child of this process is reaped.
  Ending run();

 private:
  struct Pending {
    base::UniqueFd fd;
    std::array<char, sizeof(base::agent::Preamble)> preamble{};
    std::size_t have = 0;
    std::uint64_t deadline = kNever;
    std::size_t slot = PollSet::kNoSlot;
  };

  void watch();
  // True when a signal asks for the machine to end.
  bool serve_signals(std::uint64_t now);
  void reap(std::uint64_t now);
  void accept_connections(std::uint64_t now);
  void serve_pending(Pending& pending, std::uint64_t now);
  void route(Pending& pending, std::uint64_t now);
  // The host's session of this number, made if there is none; nullptr when there are too many.
  Session* session_for(std::uint32_t id, std::uint64_t now);

  PollSet polls_;
  base::UniqueFd signals_;
  base::UniqueFd listener_;
  std::uint64_t patience_;
  std::size_t signals_slot_ = PollSet::kNoSlot;
  std::size_t listener_slot_ = PollSet::kNoSlot;
  std::array<Owned<Session>, kMostSessions> sessions_;
  std::array<Pending, kMostPending> pending_;
};

}  // namespace mayfly::init
