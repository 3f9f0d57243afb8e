#include "base/log.h"

#include <poll.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <iterator>
#include <mutex>

#include "base/file.h"
#include "base/unique_fd.h"

namespace mayfly::base::log {

namespace {

constexpr std::array<std::string_view, 6> kNames = {"Off", "Error", "Warning", "Info", "Debug", "Trace"};
// A pipe that polls as writable takes this much without waiting (PIPE_BUF, pipe(7)).
constexpr std::size_t kLongestLine = 4096;

struct Sink {
  std::mutex mutex;  // guards file and options
  UniqueFd file;     // invalid: stderr
  Options options{.path = "",
                  .level = Level::kWarning,
                  .show_level = false,
                  .show_origin = false,
                  .module = "",
                  .instance_id = "anonymous-instance"};
  std::atomic<Level> level{Level::kWarning};
  std::atomic<std::uint64_t> lost{0};
};

Sink& sink() {
  static Sink the_sink;
  return the_sink;
}

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::string timestamp() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  ::gmtime_r(&now.tv_sec, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, now.tv_nsec);
}

std::string thread_name() {
  std::array<char, 16> name{};
  if (::pthread_getname_np(::pthread_self(), name.data(), name.size()) != 0) return "?";
  return name.data();
}

// A regular file or a terminal is taken as ready; a pipe or socket only when a write cannot wait.
bool write_without_waiting(int fd, std::string_view line) {
  pollfd ready{.fd = fd, .events = POLLOUT, .revents = 0};
  if (::poll(&ready, 1, 0) != 1 || (ready.revents & POLLOUT) == 0) return false;
  return ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
}

// From the project's root; a compiler that was called with a relative path has ../ in front of that.
std::string_view place_of(const std::source_location& origin) {
  std::string_view file = origin.file_name();
  while (file.starts_with("../")) file.remove_prefix(3);
  return file;
}

}  // namespace

std::optional<Level> parse_level(std::string_view name) {
  const std::string text(name == "Warn" || name == "WARN" || name == "warn" ? "Warning" : name);
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (::strcasecmp(text.c_str(), kNames[i].data()) == 0) return static_cast<Level>(i);
  }
  return std::nullopt;
}

std::string_view level_name(Level level) {
  return kNames[static_cast<std::size_t>(level)];
}

Status configure(const Options& options) {
  UniqueFd file;
  if (!options.path.empty()) {
    auto opened = open_to_append(options.path);
    if (!opened) return fail_because(std::move(opened).error(), "the log file");
    file = std::move(*opened);
  }
  Sink& to = sink();
  const std::lock_guard lock(to.mutex);
  to.file = std::move(file);
  to.options = options;
  // "a::b" as in Rust, where Firecracker's clients have it from, is the folder a/b here.
  std::string& module = to.options.module;
  for (std::size_t at = module.find("::"); at != std::string::npos; at = module.find("::")) {
    module.replace(at, 2, "/");
  }
  to.level = options.level;
  return {};
}

bool enabled(Level level) {
  return level <= sink().level.load(std::memory_order_relaxed);
}

void write(Level level, const std::source_location& origin, std::string_view message) {
  Sink& to = sink();
  const std::lock_guard lock(to.mutex);
  const Options& options = to.options;
  if (!place_of(origin).starts_with(options.module)) return;
  std::string line = fmt::format("{} [{}:{}", timestamp(), options.instance_id, thread_name());
  if (options.show_level) fmt::format_to(std::back_inserter(line), ":{}", level_name(level));
  if (options.show_origin) {
    fmt::format_to(std::back_inserter(line), ":{}:{}", place_of(origin), origin.line());
  }
  fmt::format_to(std::back_inserter(line), "] {}", message);
  // What is quoted from a request may hold anything; a line break would let it write lines of its own.
  std::ranges::replace_if(
      line, [](char c) { return (c >= 0 && c < ' ') || c == '\x7f'; }, '?');
  if (line.size() >= kLongestLine) line.resize(kLongestLine - 1);
  line += '\n';
  if (!write_without_waiting(to.file.valid() ? to.file.get() : STDERR_FILENO, line)) ++to.lost;
}

std::uint64_t lost_lines() {
  return sink().lost;
}

bool Limiter::allow() {
  constexpr std::int64_t kWindow = 5'000'000'000;
  constexpr int kLinesAWindow = 10;
  const std::int64_t now = monotonic_ns();
  std::int64_t start = window_start_ns_.load(std::memory_order_relaxed);
  if ((start == 0 || now - start >= kWindow) && window_start_ns_.compare_exchange_strong(start, now)) {
    left_ = kLinesAWindow;
  }
  return left_.fetch_sub(1, std::memory_order_relaxed) > 0;
}

}  // namespace mayfly::base::log
