#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <deque>

#include "base/file.h"
#include "cli/lifecycle.h"
#include "cli/lifecycle_options.h"
#include "cli/machine_control.h"
#include "cli/machine_log.h"
#include "cli/machine_registry.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

// The part of `entries` that its last `lines` lines are in; of the first of them, the rest.
std::deque<LogEntry> last_lines(std::deque<LogEntry> entries, std::size_t lines) {
  // The newline at the very end ends a line and begins none.
  std::size_t newlines = lines + 1;
  if (!entries.empty() && !entries.back().bytes.ends_with('\n')) newlines = lines;
  if (lines == 0) return {};
  for (std::size_t i = entries.size(); i-- > 0;) {
    std::string& bytes = entries[i].bytes;
    for (std::size_t at = bytes.size(); at-- > 0;) {
      if (bytes[at] != '\n' || --newlines > 0) continue;
      bytes.erase(0, at + 1);
      entries.erase(entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(i));
      return entries;
    }
  }
  return entries;
}

Status print(const LogEntry& entry) {
  const bool output = entry.stream == LogStream::kOutput || entry.stream == LogStream::kConsole;
  const std::string name = entry.stream == LogStream::kNotice ? "mayfly: " : "";
  return base::write_all(output ? STDOUT_FILENO : STDERR_FILENO, name + entry.bytes);
}

Status print_all(LogReader& reader) {
  while (const auto entry = reader.next()) TRY(print(*entry));
  return {};
}

// Until the machine ended, and all that it left was printed.
Status follow(LogReader& reader, const FoundMachine& machine) {
  const UniqueFd changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!changes.valid() ||
      ::inotify_add_watch(changes.get(), machine.path.c_str(), IN_MODIFY | IN_CREATE) < 0) {
    // Its folder is gone, and so is the machine.
    if (errno == ENOENT) return print_all(reader);
    return fail_errno(errno, "watch {}", machine.path);
  }
  const ControlClient client = TRY(ControlClient::ask(machine, "wait"));
  for (;;) {
    TRY(print_all(reader));
    std::array<pollfd, 2> fds = {{{.fd = changes.get(), .events = POLLIN, .revents = 0},
                                  {.fd = client.fd(), .events = POLLIN, .revents = 0}}};
    if (client.fd() >= 0 && ::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) {
      return fail_errno(errno, "poll");
    }
    // What it wrote was in the log before it said that it ended.
    if (client.fd() < 0 || fds[1].revents != 0) return print_all(reader);
    alignas(inotify_event) std::array<char, 4096> events;
    while (::read(changes.get(), events.data(), events.size()) > 0) continue;
  }
}

Status show(const LogsOptions& options) {
  const FoundMachine machine = TRY(find_machine(options.name));
  LogReader reader = TRY(LogReader::open(machine.path, options.console ? kConsoleLog : kCommandLog));
  if (options.tail) {
    std::deque<LogEntry> entries;
    while (auto entry = reader.next()) entries.push_back(std::move(*entry));
    for (const LogEntry& each : last_lines(std::move(entries), *options.tail)) TRY(print(each));
  }
  return options.follow ? follow(reader, machine) : print_all(reader);
}

}  // namespace

Result<int> logs_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_logs(words));
  if (!parsed.options) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  const Status shown = show(*parsed.options);
  // Who reads has had enough.
  if (!shown && shown.error().code == EPIPE) return 0;
  if (!shown) return std::unexpected(shown.error());
  return 0;
}

}  // namespace mayfly::cli
