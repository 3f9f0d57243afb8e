#include "api/fields.h"

#include <sys/un.h>

#include <algorithm>

namespace mayfly::api {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;

std::string show(const json& value) {
  constexpr std::size_t kMost = 80;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMost) text = text.substr(0, kMost) + "…";
  return text;
}

Result<Fields> Fields::of(const json& object, std::string where) {
  if (!object.is_object()) return fail("{}: expected a JSON object, got {}", where, show(object));
  return Fields(object, std::move(where));
}

std::string Fields::path_of(std::string_view name) const {
  return fmt::format("{}.{}", where_, name);
}

std::unexpected<base::Error> Fields::missing(std::string_view name) const {
  return fail("{}: the field is required", path_of(name));
}

std::unexpected<base::Error> Fields::wrong(std::string_view name, const json& value,
                                           std::string_view expected) const {
  return fail("{}: expected {}, got {}", path_of(name), expected, show(value));
}

const json* Fields::find(std::string_view name) {
  asked_.emplace(name);
  const auto it = object_->find(name);
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

Result<std::optional<std::string>> Fields::optional_text(std::string_view name) {
  const json* value = find(name);
  if (value == nullptr) return std::nullopt;
  const std::string* text = value->get_ptr<const std::string*>();
  if (text == nullptr) return wrong(name, *value, "a string");
  // Strings end up as paths and words of the kernel's command line, where a NUL would cut them short.
  if (text->find('\0') != std::string::npos) return wrong(name, *value, "a string without NUL");
  return *text;
}

Result<std::string> Fields::text(std::string_view name) {
  std::optional<std::string> value = TRY(optional_text(name));
  if (!value) return missing(name);
  return std::move(*value);
}

Result<std::string> Fields::socket_path(std::string_view name) {
  std::string path = TRY(text(name));
  constexpr std::size_t kMost = sizeof(sockaddr_un::sun_path) - 1;
  if (path.empty()) return fail("{}: the path is empty", path_of(name));
  if (path.size() > kMost) {
    return fail("{}: a socket's path has at most {} bytes, and this one {}", path_of(name), kMost,
                path.size());
  }
  return path;
}

Result<std::uint64_t> Fields::number(std::string_view name, std::uint64_t least, std::uint64_t most) {
  const json* value = find(name);
  if (value == nullptr) return missing(name);
  const auto* number = value->get_ptr<const json::number_unsigned_t*>();
  if (number == nullptr || *number < least || *number > most) {
    return wrong(name, *value, fmt::format("a whole number from {} to {}", least, most));
  }
  return *number;
}

Result<bool> Fields::flag(std::string_view name) {
  if (find(name) == nullptr) return missing(name);
  return flag_or(name, false);
}

Result<bool> Fields::flag_or(std::string_view name, bool otherwise) {
  const json* value = find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return wrong(name, *value, "true or false");
  return *value->get_ptr<const json::boolean_t*>();
}

Result<std::string> Fields::choice(std::string_view name, std::span<const std::string_view> choices) {
  const std::optional<std::string> value = TRY(optional_text(name));
  if (!value) return std::string(choices.front());
  if (std::ranges::find(choices, *value) == choices.end()) {
    return wrong(name, *value, fmt::format("one of {}", fmt::join(choices, ", ")));
  }
  return *value;
}

Status Fields::refuse(std::string_view name, std::string_view why) {
  const json* value = find(name);
  if (value == nullptr) return {};
  return fail("{}: {}", path_of(name), why);
}

Status Fields::finish() const {
  for (const auto& [name, value] : object_->items()) {
    if (!asked_.contains(name)) {
      return fail("{}: unknown field; known here: {}", path_of(name), fmt::join(asked_, ", "));
    }
  }
  return {};
}

}  // namespace mayfly::api
