#include "api/metrics.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace mayfly::api {

using nlohmann::ordered_json;

std::string MetricsLine::next(const std::vector<base::MetricGroup>& groups, std::chrono::milliseconds utc) {
  // Two groups of one name are one: the metadata service of several interfaces.
  Groups now;
  for (const base::MetricGroup& group : groups) {
    for (const base::Metric& metric : group.metrics)
      now[group.name][std::string(metric.name)] += metric.value;
  }
  Groups news;
  for (const auto& [group, metrics] : now) {
    const std::size_t kind = group.find('_');
    for (const auto& [name, value] : metrics) {
      const std::uint64_t more = value - before_[group][name];
      news[group][name] += more;
      if (kind != std::string::npos) news[group.substr(0, kind)][name] += more;
    }
  }
  before_ = std::move(now);
  ordered_json line = {{"utc_timestamp_ms", utc.count()}};
  for (const auto& [name, value] : extra_) line[name] = value;
  for (const auto& [group, metrics] : news) line[group] = metrics;
  // What is not UTF-8 was refused before it got here.
  return line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

base::Result<std::unique_ptr<MetricsReporter>> MetricsReporter::create(
    const MetricsConfig& config, const std::string& instance_id, base::EventLoop& loop,
    std::function<std::vector<base::MetricGroup>()> source) {
  MetricsFile file = TRY(MetricsFile::open(config.path));
  std::map<std::string, std::string> extra = config.properties;
  if (config.emit_id) extra["id"] = instance_id;
  std::unique_ptr<MetricsReporter> reporter(
      new MetricsReporter(std::move(file), MetricsLine(std::move(extra)), std::move(source)));
  MetricsReporter* self = reporter.get();
  self->timer_ = TRY(base::Timer::create(loop, [self] {
    self->flush();
    self->timer_->set(kPeriod);
  }));
  self->timer_->set(kPeriod);
  return reporter;
}

void MetricsReporter::flush() {
  const auto utc = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::system_clock::now().time_since_epoch());
  file_.write(line_.next(source_(), utc));
}

}  // namespace mayfly::api
