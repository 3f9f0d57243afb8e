// The process's log. A line is written whole or not at all, never waits for a reader, and is counted when
// lost.
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace mayfly::base::log {

enum class Level : std::uint8_t { kOff, kError, kWarning, kInfo, kDebug, kTrace };

// "Off", "Error", "Warning" (or "Warn"), "Info", "Debug", "Trace", in any case.
std::optional<Level> parse_level(std::string_view name);
std::string_view level_name(Level level);

// What starts each line: time, then [instance id:thread name], then the level when show_level is set.
struct Options {
  std::string
      path;  // a file (made if missing, appended to) or a FIFO (opened without waiting); empty: stderr
  Level level = Level::kInfo;
  bool show_level = false;
  std::string instance_id;
};

// Replaces where and what is logged from now on. Any thread; until it is called, warnings go to stderr.
Status configure(const Options& options);
bool enabled(Level level);
void write(Level level, std::string_view message);
// Lines that could not be written since the start of the process.
std::uint64_t lost_lines();

template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kError)) write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kWarning)) write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kInfo)) write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  if (enabled(Level::kDebug)) write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}

// For lines that a guest can provoke: at most ten in five seconds. One per place and kind of event; any
// thread.
class Limiter {
 public:
  // Whether this event may be logged now; the caller counts the event in any case.
  bool allow();

 private:
  std::atomic<std::int64_t> window_start_ns_{0};
  std::atomic<int> left_{0};
};

}  // namespace mayfly::base::log
