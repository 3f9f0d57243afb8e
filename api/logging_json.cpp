#include "api/logging_json.h"

#include <nlohmann/json.hpp>

#include "api/fields.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using nlohmann::json;

Result<base::log::Options> parse_logger(const json& object) {
  Fields fields = TRY(Fields::of(object, "logger"));
  base::log::Options options;
  options.path = TRY(fields.optional_text("log_path")).value_or("");
  const std::string level = TRY(fields.optional_text("level")).value_or("Info");
  const auto parsed = base::log::parse_level(level);
  if (!parsed) {
    return fail("{}: \"{}\" is not Off, Error, Warning, Info, Debug or Trace", fields.path_of("level"),
                level);
  }
  options.level = *parsed;
  options.show_level = TRY(fields.flag_or("show_level", false));
  options.show_origin = TRY(fields.flag_or("show_log_origin", false));
  options.module = TRY(fields.optional_text("module")).value_or("");
  TRY(fields.finish());
  return options;
}

Result<MetricsConfig> parse_metrics(const json& object) {
  Fields fields = TRY(Fields::of(object, "metrics"));
  MetricsConfig metrics;
  metrics.path = TRY(fields.text("metrics_path"));
  if (metrics.path.empty()) return fail("{}: the path is empty", fields.path_of("metrics_path"));
  metrics.emit_id = TRY(fields.flag_or("emit_id", false));
  if (const json* properties = fields.find("properties")) {
    Fields texts = TRY(Fields::of(*properties, fields.path_of("properties")));
    for (const auto& [name, value] : properties->items()) metrics.properties[name] = TRY(texts.text(name));
  }
  TRY(fields.finish());
  return metrics;
}

json to_json(const base::log::Options& logger) {
  json object = {{"level", base::log::level_name(logger.level)},
                 {"show_level", logger.show_level},
                 {"show_log_origin", logger.show_origin}};
  if (!logger.module.empty()) object["module"] = logger.module;
  if (!logger.path.empty()) object["log_path"] = logger.path;
  return object;
}

json to_json(const MetricsConfig& metrics) {
  json object = {{"metrics_path", metrics.path}, {"emit_id", metrics.emit_id}};
  if (!metrics.properties.empty()) object["properties"] = metrics.properties;
  return object;
}

}  // namespace mayfly::api
