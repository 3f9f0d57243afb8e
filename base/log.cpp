#include "base/log.h"

#include <poll.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <iterator>
#include <mutex>

#include "base/file.h"
#include "base/last_words.h"
#include "base/ready.h"
#include "base/thread_name.h"
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

// What last_words() may look at without a lock.
std::atomic<int> last_words_go_to{STDERR_FILENO};
std::array<char, 65> last_words_id{"anonymous-instance"};

Sink& sink() {
  static Sink the_sink;
  return the_sink;
}

std::int64_t monotonic_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Appends the time and who speaks. Not by gmtime_r(3), which reads the time zone's file at its first call: a
// thread that has its system call filter on may not. Async-signal-safe where `out` is.
template <typename Out>
Out start_line(Out out, std::string_view instance_id) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const std::chrono::sys_seconds seconds{std::chrono::seconds(now.tv_sec)};
  const auto day = std::chrono::floor<std::chrono::days>(seconds);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(seconds - day);
  return fmt::format_to(out, "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09} [{}:{}",
                        static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                        static_cast<unsigned>(date.day()), time.hours().count(), time.minutes().count(),
                        time.seconds().count(), now.tv_nsec, instance_id, thread_name());
}

// A regular file or a terminal is taken as ready; a pipe or socket only when a write cannot wait.
bool write_without_waiting(int fd, std::string_view line) {
  if (!ready(fd, POLLOUT)) return false;
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
  last_words_go_to = to.file.valid() ? to.file.get() : STDERR_FILENO;
  last_words_id.fill('\0');
  options.instance_id.copy(last_words_id.data(), last_words_id.size() - 1);
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
  std::string line;
  start_line(std::back_inserter(line), options.instance_id);
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

void last_words(std::string_view message) noexcept {
  std::array<char, 512> line;
  char* const end = start_line(line.data(), last_words_id.data());
  const auto room = static_cast<std::size_t>(line.data() + line.size() - end);
  const auto done = fmt::format_to_n(end, room - 1, "] {}", message);
  *done.out = '\n';
  const std::string_view whole(line.data(), static_cast<std::size_t>(done.out + 1 - line.data()));
  static_cast<void>(write_without_waiting(last_words_go_to, whole));
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
