// One session: a control stream, up to three standard streams, and the command they are for.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/agent_protocol.h"
#include "base/unique_fd.h"
#include "rootfs/init/control.h"
#include "rootfs/init/poll_set.h"
#include "rootfs/init/pump.h"
#include "rootfs/init/start_request.h"

namespace mayfly::init {

inline constexpr std::size_t kStreams = 4;  // as base::agent::Stream counts them

// A peer has this long to complete what it began: a preamble, the streams of a session.
inline constexpr std::uint64_t kPatience = 30 * kSecond;
// Processes that outlive the command and keep its output open may write for this long; what is in the pipe by
// then is still delivered.
inline constexpr std::uint64_t kGrace = 100 * kMillisecond;

class Session {
 public:
  enum class Turn {
    kContinue,
    kEnded,     // the host is gone or misbehaved: the session is over
    kShutdown,  // the host asks for the machine to end
  };

  Session() = default;
  // Kills a command that still runs.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  [[nodiscard]] bool is_boot() const { return boot_; }
  [[nodiscard]] std::uint32_t id() const { return id_; }
  [[nodiscard]] pid_t pid() const { return pid_; }

  // The host began a session by opening one of its streams; it has until `deadline` to open the others and to
  // ask for a start. Descriptors must not block.
  void open(std::uint32_t id, std::uint64_t deadline);
  // False, and the stream is closed, when there is one already.
  bool adopt(base::agent::Stream stream, base::UniqueFd fd);

  // The guest opens the first session itself: the connections are under way.
  void open_boot(std::array<base::UniqueFd, kStreams> connecting, std::uint64_t init_started,
                 std::uint64_t now);

  void watch(PollSet& polls);
  Turn serve(const PollSet& polls, std::uint64_t now);
  // The command ended, with a status of waitpid(2).
  void command_ended(int status, std::uint64_t now);

 private:
  enum class Phase {
    kConnecting,  // the boot session's connections
    kGathering,   // streams and the request to start come in
    kRunning,
    kEnded,  // the command ended or never was; output may still drain
  };

  Turn finish_connecting(const PollSet& polls, std::uint64_t now);
  Turn serve_control(const PollSet& polls);
  Turn handle_frame();
  Turn handle_start(Buffer body);
  void handle_signal(Buffer body) const;
  void handle_window_size(Buffer body) const;
  [[nodiscard]] bool all_streams() const;
  void start_when_complete();
  void report_failure(std::uint32_t exit_status, const char* message);

  base::UniqueFd& stream(base::agent::Stream which) { return streams_[static_cast<std::size_t>(which)]; }

  Phase phase_ = Phase::kGathering;
  bool boot_ = false;
  std::uint32_t id_ = 0;
  pid_t pid_ = -1;
  std::uint64_t init_started_ = 0;
  std::uint64_t deadline_ = kNever;  // kConnecting, kGathering: to be done by; kEnded: output is cut off
  Control control_;
  std::array<base::UniqueFd, kStreams> streams_;  // until they are pumped, and control_ for its own
  std::array<std::size_t, kStreams> slots_{};
  bool start_asked_ = false;
  StartRequest request_;
  base::UniqueFd terminal_;  // for window sizes
  Pump input_;
  Pump output_;
  Pump errors_;
};

}  // namespace mayfly::init
