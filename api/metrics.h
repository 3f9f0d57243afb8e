// The metrics: one JSON object a line, every minute and at the end, as Firecracker's clients read them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "api/metrics_file.h"
#include "base/event_loop.h"
#include "base/metric.h"
#include "base/result.h"

namespace mayfly::api {

struct MetricsConfig {
  std::string path;
  bool emit_id = false;                           // each line has the instance's id
  std::map<std::string, std::string> properties;  // that each line has, as they are
};

// What was counted between one line and the next. Each group is an object of the line; for each kind of
// group there is one more, in which its groups are added up.
class MetricsLine {
 public:
  // `extra`: strings that each line has besides.
  explicit MetricsLine(std::map<std::string, std::string> extra) : extra_(std::move(extra)) {}
  // `groups`: counted up since the start, the same ones in each call.
  std::string next(const std::vector<base::MetricGroup>& groups, std::chrono::milliseconds utc);

 private:
  using Groups = std::map<std::string, std::map<std::string, std::uint64_t>>;
  std::map<std::string, std::string> extra_;
  Groups before_;
};

// On the loop's thread.
class MetricsReporter {
 public:
  static constexpr std::chrono::seconds kPeriod{60};

  // Opens the file. `source` is asked for what was counted; it and `loop` outlive the reporter.
  static base::Result<std::unique_ptr<MetricsReporter>> create(
      const MetricsConfig& config, const std::string& instance_id, base::EventLoop& loop,
      std::function<std::vector<base::MetricGroup>()> source);
  // Writes a line now.
  void flush();
  [[nodiscard]] std::uint64_t lost_lines() const { return file_.lost_lines(); }

 private:
  MetricsReporter(MetricsFile file, MetricsLine line, std::function<std::vector<base::MetricGroup>()> source)
      : file_(std::move(file)), line_(std::move(line)), source_(std::move(source)) {}
  MetricsFile file_;
  MetricsLine line_;
  std::function<std::vector<base::MetricGroup>()> source_;
  std::unique_ptr<base::Timer> timer_;
};

}  // namespace mayfly::api
