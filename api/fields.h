// One JSON object read field by field: what is missing, of the wrong type, out of range or unknown is an
// error that names the field by its path and the value.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::api {

// A field that is null counts as absent. Nothing here throws.
class Fields {
 public:
  // `where` is put before field names in errors: "machine-config", "drives[1]". `object` outlives this.
  static base::Result<Fields> of(const nlohmann::json& object, std::string where);

  base::Result<std::string> text(std::string_view name);
  base::Result<std::optional<std::string>> optional_text(std::string_view name);
  base::Result<std::uint64_t> number(std::string_view name, std::uint64_t least, std::uint64_t most);
  base::Result<bool> flag(std::string_view name);
  base::Result<bool> flag_or(std::string_view name, bool otherwise);
  // The path of a unix socket: one that such a socket can have.
  base::Result<std::string> socket_path(std::string_view name);
  // One of `choices`; absent is the first.
  base::Result<std::string> choice(std::string_view name, std::span<const std::string_view> choices);
  // Null when absent. An object or array, for the caller to look into.
  const nlohmann::json* find(std::string_view name);

  // A field of the format that this version refuses, in the words of `why`, when it is given.
  base::Status refuse(std::string_view name, std::string_view why);
  // Every field was asked for by now: any other is unknown.
  [[nodiscard]] base::Status finish() const;

  [[nodiscard]] std::string path_of(std::string_view name) const;

 private:
  Fields(const nlohmann::json& object, std::string where) : object_(&object), where_(std::move(where)) {}
  [[nodiscard]] std::unexpected<base::Error> missing(std::string_view name) const;
  [[nodiscard]] std::unexpected<base::Error> wrong(std::string_view name, const nlohmann::json& value,
                                                   std::string_view expected) const;
  const nlohmann::json* object_;
  std::string where_;
  std::set<std::string, std::less<>> asked_;
};

// A value as an error message shows it: as JSON, and not more than a line of it.
std::string show(const nlohmann::json& value);

}  // namespace mayfly::api
