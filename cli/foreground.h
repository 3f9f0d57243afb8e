// Our terminal, our standard streams and our signals, for a command in a guest.
#pragma once

#include <array>
#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "cli/frames.h"
#include "cli/options.h"
#include "cli/session.h"
#include "cli/terminal.h"

namespace mayfly::cli {

// Those that ask a command to end.
inline constexpr std::array kEndingSignals = {SIGINT, SIGTERM, SIGQUIT, SIGHUP};

// With the size and the kind of our terminal, when the command gets one.
StartRequest start_request(const CommandOptions& options);

// Standard input, output and error. Without `input`, an end of file.
base::Result<StandardStreams> standard_streams(bool tty, bool input);

// Passes signals on. Lives on the loop's thread, and there is at most one.
class Foreground {
 public:
  struct Handlers {
    // What the command's signals go to; null while there is nothing.
    std::function<Session*()> session;
    // A signal that is for the command, or without one for us.
    std::function<void(int signal)> on_signal;
    // Three that should end the command, within two seconds: end at once.
    std::function<void(int signal)> on_stubborn;
  };
  static base::Result<std::unique_ptr<Foreground>> create(base::EventLoop& loop, Handlers handlers);

  // Makes the terminal of standard input raw; and as it was. The destructor does the latter as well.
  base::Status enter_raw();
  void leave_raw() { terminal_.reset(); }

 private:
  explicit Foreground(Handlers handlers) : handlers_(std::move(handlers)) {}
  void on_signal(int signal);
  [[nodiscard]] bool too_stubborn();

  Handlers handlers_;
  std::optional<RawTerminal> terminal_;
  std::vector<std::chrono::steady_clock::time_point> ending_signals_;
};

}  // namespace mayfly::cli
