#include "base/json.h"

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace mayfly::base {

using nlohmann::json;

namespace {

// Looked for before the text is parsed, so that nothing deep is ever made.
bool too_deep(std::string_view text) {
  unsigned depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDeepestNesting) return true;
    } else if ((c == '}' || c == ']') && depth > 0) {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<json> parse_json(std::string_view text, std::string_view what) {
  if (too_deep(text)) {
    return fail("{} is nested more than {} objects and arrays deep", what, kDeepestNesting);
  }
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return fail("{} is not valid JSON", what);
  return value;
}

Result<json> read_json(const std::string& path) {
  const std::string text = TRY(read_file(path));
  return parse_json(text, path);
}

std::string to_text(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace mayfly::base
