// What a detached machine has written, kept in its folder in files of bounded size.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/endian.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

enum class LogStream : std::uint32_t {
  kOutput = 1,
  kErrors = 2,
  kNotice = 3,   // a line of mayfly's own
  kConsole = 4,  // the guest's serial port
};

// A log is a row of files NAME.0, NAME.1, … of records. When one has `segment` bytes the next is begun, and
// the last two are kept: of what was written, at least the last `segment` bytes are there, and at most twice
// that.
struct LogPlace {
  const char* name;
  std::size_t segment;
};
inline constexpr LogPlace kCommandLog = {"log", 4U << 20U};
inline constexpr LogPlace kConsoleLog = {"console", 512U << 10U};

struct LogRecord {
  base::Le64 time_ns;  // since 1970
  base::Le32 stream;   // LogStream
  base::Le32 length;   // of the bytes that follow, at most kLongestLogRecord
};
static_assert(sizeof(LogRecord) == 16 && base::Wire<LogRecord>);
inline constexpr std::size_t kLongestLogRecord = 256U << 10U;

class LogWriter {
 public:
  static base::Result<LogWriter> create(const std::string& folder, LogPlace place);
  // What cannot be written, because the file system is full, say, is lost.
  void add(LogStream stream, std::span<const std::byte> bytes);
  void add(LogStream stream, std::string_view text);

 private:
  LogWriter(std::string folder, LogPlace place) : folder_(std::move(folder)), place_(place) {}
  [[nodiscard]] std::string path(std::uint64_t number) const;
  base::Status begin(std::uint64_t number);

  std::string folder_;
  LogPlace place_;
  std::uint64_t number_ = 0;
  std::size_t size_ = 0;
  base::UniqueFd file_;
};

struct LogEntry {
  LogStream stream;
  std::string bytes;
};

// Reads from the oldest record that is there to the newest, at its own pace.
class LogReader {
 public:
  // `folder`: open; it may get another name meanwhile.
  static base::Result<LogReader> open(const std::string& folder, LogPlace place);
  // The next one; nothing when there is none yet.
  std::optional<LogEntry> next();

 private:
  LogReader(base::UniqueFd folder, LogPlace place) : folder_(std::move(folder)), place_(place) {}
  [[nodiscard]] base::UniqueFd open_segment(std::uint64_t number) const;
  bool go_on();

  base::UniqueFd folder_;
  LogPlace place_;
  bool begun_ = false;
  std::uint64_t number_ = 0;
  std::uint64_t offset_ = 0;
  base::UniqueFd file_;
};

}  // namespace mayfly::cli
