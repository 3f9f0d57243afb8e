// Both ends of a session without a virtual machine: the agent in a process of its own, which adopts orphans
// as PID 1 does, and the host's side of its sockets.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/agent_protocol.h"
#include "base/unique_fd.h"

namespace mayfly::test {

struct Received {
  base::agent::Frame type;
  std::string body;
};

// What the host asks to be run.
struct Request {
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
  std::string directory;
  bool tty = false;
  std::uint16_t rows = 0;
  std::uint16_t columns = 0;
  std::uint32_t uid = 0;  // of the tests' own process unless set
  std::uint32_t gid = 0;

  explicit Request(std::vector<std::string> words);
  static Request shell(std::string_view script) { return Request({"/bin/sh", "-c", std::string(script)}); }
  [[nodiscard]] std::string encode() const;
};

// The host's side of a session.
struct HostSession {
  base::UniqueFd control;
  base::UniqueFd input;
  base::UniqueFd output;
  base::UniqueFd errors;

  void send(base::agent::Frame type, std::string_view body) const;
  void send_signal(int number) const;
  void send_window_size(std::uint16_t rows, std::uint16_t columns) const;
  void start(const Request& request) const { send(base::agent::Frame::kStart, request.encode()); }
  void end_input() const;

  // The next frame; nothing at end of file.
  [[nodiscard]] std::optional<Received> receive() const;
  // Skips to the frame of this type; a test failure if it does not come.
  [[nodiscard]] std::string expect(base::agent::Frame type) const;
  [[nodiscard]] base::agent::Exited expect_exit() const;
  struct Failure {
    std::uint32_t exit_status;
    std::string message;
  };
  [[nodiscard]] Failure expect_failure() const;
};

// Everything until end of file.
std::string read_to_end(const base::UniqueFd& fd);
// Until `text` was seen at the end of what was read.
std::string read_until(const base::UniqueFd& fd, std::string_view text);
void write_fully(const base::UniqueFd& fd, std::string_view bytes);
// Whether the other side has closed; waits until it does.
bool ends_without_a_byte(const base::UniqueFd& fd);

class Guest {
 public:
  struct Options {
    std::uint64_t patience_ns = 600'000'000'000;
    int socket_buffer = 0;  // bytes of send buffer of the boot session's streams in the guest; 0: as it is
  };
  Guest() : Guest(Options{}) {}
  explicit Guest(Options options);
  ~Guest();
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // The session that the guest opened; Preambles and Hello have been taken off.
  HostSession boot;

  // A connection to the agent's port, with nothing sent.
  [[nodiscard]] base::UniqueFd connect() const;
  [[nodiscard]] base::UniqueFd open_stream(base::agent::Stream stream, std::uint32_t session) const;
  [[nodiscard]] HostSession open_session(std::uint32_t id, bool tty = false) const;

  // How the agent's loop ended: waits for it.
  enum class Ending { kAsked, kHostGone, kCrashed };
  Ending wait();

 private:
  pid_t pid_ = -1;
  std::string address_;
};

}  // namespace mayfly::test
