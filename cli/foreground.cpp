#include "cli/foreground.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "base/file.h"

namespace mayfly::cli {

using base::Result;
using base::Status;

namespace {

using namespace std::chrono_literals;

// So many signals that should end the command, within this time, end the machine.
constexpr std::size_t kStubbornSignals = 3;
constexpr auto kStubbornWindow = 2s;

// Signals that we handle: not those that whoever started us has us ignore (nohup, a shell's background job).
std::vector<int> handled_signals() {
  std::vector<int> signals(kEndingSignals.begin(), kEndingSignals.end());
  signals.insert(signals.end(), {SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT});
  std::erase_if(signals, [](int signal) {
    struct sigaction action {};
    return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
  });
  return signals;
}

}  // namespace

StartRequest start_request(const CommandOptions& options) {
  StartRequest request{.tty = options.tty,
                       .uid = options.uid,
                       .gid = options.gid.value_or(base::agent::kGroupOfUser),
                       .directory = options.directory,
                       .arguments = options.command,
                       .environment = options.environment};
  if (!options.tty) return request;
  const WindowSize size = window_size(STDIN_FILENO);
  request.rows = size.rows;
  request.columns = size.columns;
  const bool has_term = std::ranges::any_of(
      options.environment, [](const std::string& variable) { return variable.starts_with("TERM="); });
  const char* const term = std::getenv("TERM");
  if (!has_term && term != nullptr) request.environment.push_back(fmt::format("TERM={}", term));
  return request;
}

Result<StandardStreams> standard_streams(bool tty, bool input) {
  using Direction = ByteEnd::Direction;
  StandardStreams streams;
  streams.input = input ? TRY(ByteEnd::standard(STDIN_FILENO, Direction::kRead, tty))
                        : ByteEnd::own(TRY(base::open_file("/dev/null", O_RDONLY)));
  streams.output = TRY(ByteEnd::standard(STDOUT_FILENO, Direction::kWrite, false));
  streams.errors = TRY(ByteEnd::standard(STDERR_FILENO, Direction::kWrite, true));
  return streams;
}

Result<std::unique_ptr<Foreground>> Foreground::create(base::EventLoop& loop, Handlers handlers) {
  std::unique_ptr<Foreground> foreground(new Foreground(std::move(handlers)));
  TRY(loop.add_signals(handled_signals(), [raw = foreground.get()](int signal) { raw->on_signal(signal); }));
  return foreground;
}

Status Foreground::enter_raw() {
  if (!terminal_) terminal_.emplace(TRY(RawTerminal::enter(STDIN_FILENO)));
  return {};
}

bool Foreground::too_stubborn() {
  const auto now = std::chrono::steady_clock::now();
  std::erase_if(ending_signals_, [&](auto at) { return now - at > kStubbornWindow; });
  ending_signals_.push_back(now);
  return ending_signals_.size() >= kStubbornSignals;
}

void Foreground::on_signal(int signal) {
  if (signal == SIGCONT && terminal_) terminal_->reenter();
  if (signal == SIGCONT || signal == SIGWINCH) {
    const WindowSize size = window_size(STDIN_FILENO);
    Session* const session = handlers_.session();
    if (terminal_ && session != nullptr) session->resize(size.rows, size.columns);
    return;
  }
  const bool ending = std::ranges::find(kEndingSignals, signal) != kEndingSignals.end();
  if (ending && too_stubborn()) return handlers_.on_stubborn(signal);
  handlers_.on_signal(signal);
}

}  // namespace mayfly::cli
