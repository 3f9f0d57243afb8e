// JSON texts from outside.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::base {

// Of objects and arrays in each other. What is parsed is copied, compared and written by functions that call
// themselves.
inline constexpr unsigned kDeepestNesting = 128;

// Any JSON value. Errors start with `what` ("the metadata"): not valid JSON, or nested too deeply.
Result<nlohmann::json> parse_json(std::string_view text, std::string_view what);

// A file's; errors start with its path.
Result<nlohmann::json> read_json(const std::string& path);

// On one line; bytes that are not UTF-8 are replaced.
std::string to_text(const nlohmann::json& value);

}  // namespace mayfly::base
