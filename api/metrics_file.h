// Where the metrics go: a file or a FIFO that may have no reader, or a slow one, and is never waited for.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::api {

// Not thread-safe.
class MetricsFile {
 public:
  // `path`: a file (made if missing, appended to) or a FIFO (opened without waiting). Errors name the path.
  static base::Result<MetricsFile> open(const std::string& path);

  // Writes the line whole, some of it perhaps only before the next one; or loses it whole, and counts it.
  void write(std::string_view line);
  [[nodiscard]] std::uint64_t lost_lines() const { return lost_; }

 private:
  explicit MetricsFile(base::UniqueFd fd) : fd_(std::move(fd)) {}
  void write_pending();

  base::UniqueFd fd_;
  std::string pending_;  // of a line that was begun
  std::uint64_t lost_ = 0;
};

}  // namespace mayfly::api
