// One command in the guest, seen from the host: the streams of base/agent_protocol.h on one side, mayfly's
// own standard input, output and error on the other.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/byte_end.h"
#include "cli/frames.h"
#include "cli/pump.h"

namespace mayfly::cli {

// Our side of the command's standard streams.
struct StandardStreams {
  ByteEnd input;
  ByteEnd output;
  ByteEnd errors;  // not used with a terminal
};

struct SessionEnd {
  enum class Kind : std::uint8_t {
    kExited,  // the command ended and all its output was written
    kFailed,  // the guest could not start the command: `message`, exit_status 125, 126 or 127
    kGone,    // the guest went away: `message`
    kBroken,  // the guest does not keep to the protocol: `message`
  };
  Kind kind;
  int exit_status;
  std::string message;
};

// Everything that arrives is a hostile guest's: memory does not depend on what it sends, and whatever the
// protocol does not have ends the session. Lives on the loop's thread.
class Session {
 public:
  static constexpr std::size_t kStreams = 4;

  struct Observer {
    // Each frame, when it arrives.
    std::function<void(const GuestFrame&)> on_frame = nullptr;
    // What the command wrote, before it is written to our side.
    std::function<void(base::agent::Stream, std::span<const std::byte>)> on_output = nullptr;
    // One of ours failed (a full disk below standard output, say); the session goes on without it.
    std::function<void(std::string)> on_local_error;
    // Once, last; from the loop. May destroy the session.
    std::function<void(const SessionEnd&)> on_end;
  };

  // `loop` outlives the session. A request without arguments is for a guest that is to run no command: its
  // session has no more to it than the guest's being there.
  static base::Result<std::unique_ptr<Session>> create(base::EventLoop& loop, StandardStreams streams,
                                                       const StartRequest& request, Observer observer);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // A connection that the guest opened.
  void add_stream(base::UniqueFd fd);
  // In place of all those: connections that we opened, by number of their stream. The guest greets nobody
  // then, and is asked for the command at once.
  base::Status begin(std::array<base::UniqueFd, kStreams> streams);
  // The machine ended: what it sent before is still taken, and nothing else is waited for.
  void guest_ended();
  // False once all streams are there: further connections have no business here.
  [[nodiscard]] bool wants_streams() const;

  // The guest is there, and there is no command.
  [[nodiscard]] bool idle() const { return state_ == State::kIdle; }
  // The command runs, or the guest was asked to start it: signals reach it.
  [[nodiscard]] bool running() const { return state_ == State::kStarting || state_ == State::kRunning; }
  // These do nothing unless it runs, wait for its start, and are lost when a guest has not read the last
  // hundreds of them.
  void send_signal(int number);
  void resize(std::uint16_t rows, std::uint16_t columns);
  // Asks the guest to end its processes, to write everything to its disks and to end; a command that runs
  // ends unheard.
  void request_shutdown();

 private:
  // kIdle: there is no command.
  enum class State : std::uint8_t { kGreeting, kIdle, kStarting, kRunning, kDraining, kEnded };
  static constexpr std::size_t kMostPending = 8;

  // A connection that has not said yet which stream it is.
  struct Pending {
    base::UniqueFd fd;
    std::array<std::byte, sizeof(base::agent::Preamble)> bytes;
    std::size_t count = 0;
  };

  Session(base::EventLoop& loop, StandardStreams streams, bool tty, std::string start, Observer observer)
      : loop_(loop),
        streams_(std::move(streams)),
        tty_(tty),
        start_(std::move(start)),
        observer_(std::move(observer)) {}

  void read_preamble(int fd);
  base::Status attach(base::agent::Stream stream, base::UniqueFd fd);
  base::Status attach_control(base::UniqueFd fd);
  base::Status pump_output(base::agent::Stream stream, std::unique_ptr<Pump>& pump, base::UniqueFd fd,
                           ByteEnd sink, const char* name);
  base::Status pump_input();

  void serve_control(std::uint32_t events);
  bool read_control();
  base::Status handle(const GuestFrame& frame);
  void send(const std::string& frame);
  void send_to_command(const std::string& frame);
  void flush_control();

  void finish_if_drained();
  void fail_with(std::string message, SessionEnd::Kind kind = SessionEnd::Kind::kBroken);
  void end(SessionEnd::Kind kind, int exit_status, std::string message);

  base::EventLoop& loop_;
  StandardStreams streams_;
  bool tty_;
  std::string start_;  // the frame, until it is sent; or empty
  Observer observer_;
  State state_ = State::kGreeting;
  int exit_status_ = 0;

  std::map<int, Pending> pending_;
  std::optional<std::uint32_t> id_;
  std::array<bool, kStreams> attached_{};

  base::UniqueFd control_;
  FrameReader reader_;
  std::string to_send_;
  std::string for_command_;     // frames that wait for its start
  base::UniqueFd guest_input_;  // until the command runs
  std::unique_ptr<Pump> input_;
  std::unique_ptr<Pump> output_;
  std::unique_ptr<Pump> errors_;
  std::unique_ptr<base::Timer> missing_streams_;
};

}  // namespace mayfly::cli
