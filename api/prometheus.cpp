#include "api/prometheus.h"

#include <fmt/format.h>

#include <iterator>
#include <map>

namespace mayfly::api {

std::string prometheus_text(const std::vector<base::MetricGroup>& groups, std::string_view instance_id) {
  // By name, then by labels: the format has the samples of a name in one place, below its type.
  std::map<std::string, std::map<std::string, std::uint64_t>> samples;
  for (const base::MetricGroup& group : groups) {
    const std::size_t kind = std::min(group.name.find('_'), group.name.size());
    // Ids are letters, digits, _ and -: nothing in them needs an escape.
    std::string labels = fmt::format("instance=\"{}\"", instance_id);
    if (kind < group.name.size()) labels += fmt::format(",device=\"{}\"", group.name.substr(kind + 1));
    for (const base::Metric& metric : group.metrics) {
      samples[fmt::format("mayfly_{}_{}", group.name.substr(0, kind), metric.name)][labels] += metric.value;
    }
  }
  std::string text;
  for (const auto& [name, values] : samples) {
    fmt::format_to(std::back_inserter(text), "# TYPE {} counter\n", name);
    for (const auto& [labels, value] : values) {
      fmt::format_to(std::back_inserter(text), "{}{{{}}} {}\n", name, labels, value);
    }
  }
  return text;
}

}  // namespace mayfly::api
