#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

#include "base/file.h"
#include "cli/keeper.h"
#include "cli/lifecycle.h"
#include "cli/lifecycle_options.h"
#include "cli/machine_control.h"
#include "cli/machine_registry.h"
#include "cli/terminal.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr char kLeave = 0x1d;  // Ctrl-]

enum class Turn : std::uint8_t { kGoOn, kInputEnded, kOver };

Result<Turn> type(const UniqueFd& socket, bool terminal) {
  std::array<char, 4096> buffer;
  const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return Turn::kGoOn;
  if (n <= 0) {
    ::shutdown(socket.get(), SHUT_WR);
    return Turn::kInputEnded;
  }
  std::string_view text(buffer.data(), static_cast<std::size_t>(n));
  const std::size_t leave = terminal ? text.find(kLeave) : std::string_view::npos;
  text = text.substr(0, leave);
  while (!text.empty()) {
    const ssize_t sent = ::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EINTR) return Turn::kOver;
    if (sent > 0) text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return leave == std::string_view::npos ? Turn::kGoOn : Turn::kOver;
}

Result<Turn> show(const UniqueFd& socket) {
  std::array<char, 16384> buffer;
  const ssize_t n = ::recv(socket.get(), buffer.data(), buffer.size(), 0);
  if (n < 0 && errno == EINTR) return Turn::kGoOn;
  if (n <= 0) return Turn::kOver;
  TRY(base::write_all(STDOUT_FILENO, std::string_view(buffer.data(), static_cast<std::size_t>(n))));
  return Turn::kGoOn;
}

Status converse(const UniqueFd& socket, bool terminal) {
  int input = STDIN_FILENO;
  for (;;) {
    std::array<pollfd, 2> fds = {{{.fd = input, .events = POLLIN, .revents = 0},
                                  {.fd = socket.get(), .events = POLLIN, .revents = 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, "poll");
    }
    if (fds[1].revents != 0 && TRY(show(socket)) == Turn::kOver) return {};
    if (fds[0].revents == 0) continue;
    const Turn turn = TRY(type(socket, terminal));
    if (turn == Turn::kOver) return {};
    if (turn == Turn::kInputEnded) input = -1;
  }
}

}  // namespace

Result<int> console_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_names(NamesCommand::kConsole, words));
  if (!parsed.options) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  const FoundMachine machine = TRY(find_machine(parsed.options->names.front()));
  const UniqueFd socket = TRY(connect_to(machine.path + "/console"));
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  std::optional<Keeper> keeper;
  std::optional<RawTerminal> raw;
  if (terminal) {
    fmt::print(stderr, "mayfly: the console of {}; Ctrl-] leaves it\n", machine.facts.name);
    keeper.emplace(TRY(Keeper::start({.terminal = STDIN_FILENO})));
    raw.emplace(TRY(RawTerminal::enter(STDIN_FILENO)));
  }
  const Status said = converse(socket, terminal);
  raw.reset();
  if (terminal) fmt::print(stderr, "\n");
  if (!said && said.error().code != EPIPE) return std::unexpected(said.error());
  return 0;
}

}  // namespace mayfly::cli
