// The process's log. A line is written whole or not at all, never waits for a reader, and is counted when
// lost. Control characters in it are written as "?".
#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/result.h"

namespace mayfly::base::log {

enum class Level : std::uint8_t { kOff, kError, kWarning, kInfo, kDebug, kTrace };

// "Off", "Error", "Warning" (or "Warn"), "Info", "Debug", "Trace", in any case.
std::optional<Level> parse_level(std::string_view name);
std::string_view level_name(Level level);

// What starts each line: time, then [instance id:thread name], with the level and the place in the source
// when they are wanted.
struct Options {
  std::string
      path;  // a file (made if missing, appended to) or a FIFO (opened without waiting); empty: stderr
  Level level = Level::kInfo;
  bool show_level = false;
  bool show_origin = false;
  std::string module = {};  // only lines from files whose path starts so: "vmm", "virtio::block"; empty: all
  std::string instance_id;
};

// Replaces where and what is logged from now on. Any thread; until it is called, warnings go to stderr.
Status configure(const Options& options);
bool enabled(Level level);
void write(Level level, const std::source_location& origin, std::string_view message);
// Lines that could not be written since the start of the process.
std::uint64_t lost_lines();

// A format string, and where in the source it stands.
template <typename... Args>
struct Format {
  template <typename Text>
  consteval Format(const Text& format, std::source_location place = std::source_location::current())
      : text(format), origin(place) {}
  fmt::format_string<Args...> text;
  std::source_location origin;
};

template <typename... Args>
void line(Level level, const Format<Args...>& format, Args&&... args) {
  if (enabled(level)) write(level, format.origin, fmt::format(format.text, std::forward<Args>(args)...));
}
template <typename... Args>
void error(Format<std::type_identity_t<Args>...> format, Args&&... args) {
  line<Args...>(Level::kError, format, std::forward<Args>(args)...);
}
template <typename... Args>
void warning(Format<std::type_identity_t<Args>...> format, Args&&... args) {
  line<Args...>(Level::kWarning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void info(Format<std::type_identity_t<Args>...> format, Args&&... args) {
  line<Args...>(Level::kInfo, format, std::forward<Args>(args)...);
}
template <typename... Args>
void debug(Format<std::type_identity_t<Args>...> format, Args&&... args) {
  line<Args...>(Level::kDebug, format, std::forward<Args>(args)...);
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
