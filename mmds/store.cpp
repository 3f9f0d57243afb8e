#include "mmds/store.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/json.h"

namespace mayfly::mmds {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;

namespace {

Result<json> parse_object(std::string_view text) {
  json value = TRY(base::parse_json(text, "the metadata"));
  if (!value.is_object()) return fail("the metadata is not a JSON object");
  return value;
}

// RFC 6901, section 4.
std::string unescape(std::string_view key) {
  std::string plain;
  for (std::size_t i = 0; i < key.size(); ++i) {
    const char next = i + 1 < key.size() ? key[i + 1] : '\0';
    const bool escape = key[i] == '~' && (next == '0' || next == '1');
    plain += !escape ? key[i] : next == '0' ? '~' : '/';
    i += escape ? 1 : 0;
  }
  return plain;
}

const json* child(const json& value, std::string_view name) {
  if (value.is_object()) {
    const auto found = value.find(unescape(name));
    return found != value.end() ? &*found : nullptr;
  }
  if (!value.is_array() || (name.size() > 1 && name[0] == '0')) return nullptr;
  std::size_t index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end != name.data() + name.size()) return nullptr;
  return index < value.size() ? &value[index] : nullptr;
}

const json* descend(const json* value, std::string_view path) {
  while (value != nullptr && !path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    if (end > 0) value = child(*value, path.substr(0, end));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return value;
}

std::string list_keys(const json& object) {
  std::string list;
  for (const auto& [key, value] : object.items()) {
    if (!list.empty()) list += '\n';
    list += key;
    if (value.is_object()) list += '/';
  }
  return list;
}

}  // namespace

Store::Store(std::size_t size_limit) : size_limit_(size_limit) {}
Store::~Store() = default;

Status Store::put(std::string_view text) {
  json value = TRY(parse_object(text));
  const std::lock_guard lock(mutex_);
  return replace(std::move(value));
}

Status Store::patch(std::string_view text) {
  const json change = TRY(parse_object(text));
  const std::lock_guard lock(mutex_);
  if (!value_) return fail("there is no metadata to patch yet");
  json value = *value_;
  value.merge_patch(change);
  return replace(std::move(value));
}

// The mutex is held.
Status Store::replace(json value) {
  const std::size_t size = base::to_text(value).size();
  if (size > size_limit_) {
    return fail("the metadata is too large: {} bytes as JSON, and the limit is {}", size, size_limit_);
  }
  value_ = std::make_unique<json>(std::move(value));
  return {};
}

std::string Store::get() const {
  const std::lock_guard lock(mutex_);
  return value_ ? base::to_text(*value_) : "{}";
}

std::expected<std::string, Missing> Store::find(std::string_view path, Format format) const {
  const std::lock_guard lock(mutex_);
  const json* found = descend(value_.get(), path);
  if (found == nullptr) return std::unexpected(Missing::kNotFound);
  if (format == Format::kJson) return base::to_text(*found);
  if (found->is_object()) return list_keys(*found);
  if (found->is_string()) return found->get<std::string>();
  return std::unexpected(Missing::kUnsupported);
}

}  // namespace mayfly::mmds
