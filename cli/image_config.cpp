#include "cli/image_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/file.h"
#include "cli/command_line.h"
#include "cli/image_tree.h"

namespace mayfly::cli {
namespace {

using base::fail;
using base::Result;
using nlohmann::json;

// Absent and null are the same; anything else of another type is an error.
Result<std::string> text_of(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return std::string();
  if (!at->is_string()) return fail("{}: expected text", name);
  return at->get<std::string>();
}

Result<std::vector<std::string>> texts_of(const json& object, const char* name) {
  const auto at = object.find(name);
  if (at == object.end() || at->is_null()) return std::vector<std::string>();
  if (!at->is_array() || !std::ranges::all_of(*at, [](const json& each) { return each.is_string(); })) {
    return fail("{}: expected an array of texts", name);
  }
  return at->get<std::vector<std::string>>();
}

Result<ImageConfig> parse_fields(const json& object, bool names_begin_large) {
  const auto name = [&](const char* large, const char* small) { return names_begin_large ? large : small; };
  ImageConfig config;
  config.entrypoint = TRY(texts_of(object, name("Entrypoint", "entrypoint")));
  config.command = TRY(texts_of(object, name("Cmd", "command")));
  config.environment = TRY(texts_of(object, name("Env", "environment")));
  config.user = TRY(text_of(object, name("User", "user")));
  config.directory = TRY(text_of(object, name("WorkingDir", "directory")));
  for (const std::string& variable : config.environment) {
    if (variable.find('=') == std::string::npos || variable.starts_with('=')) {
      return fail("{}: \"{}\" is not NAME=VALUE", name("Env", "environment"), variable);
    }
  }
  if (!config.directory.empty() && !config.directory.starts_with('/')) config.directory.insert(0, "/");
  return config;
}

// The numbers in the line of `name` in passwd(5) or group(5): its own, and in passwd the group's.
std::optional<std::vector<std::string>> look_up(const std::string& file, std::string_view name) {
  const auto content = base::read_file(file);
  if (!content) return std::nullopt;
  std::istringstream lines(*content);
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    std::istringstream parts(line);
    for (std::string part; std::getline(parts, part, ':');) fields.push_back(part);
    if (fields.size() < 3 || fields[0] != name) continue;
    fields.resize(4);
    return std::vector{fields[2], fields[3]};
  }
  return std::nullopt;
}

}  // namespace

Result<ImageConfig> parse_oci_config(const json& image) {
  if (!image.is_object()) return fail("the image's configuration is not a JSON object");
  const std::string architecture = TRY(text_of(image, "architecture"));
  const std::string system = TRY(text_of(image, "os"));
  if (architecture != "amd64" || system != "linux") {
    return fail("the image is for {} on {}; guests are Linux on amd64", system, architecture);
  }
  const auto config = image.find("config");
  if (config == image.end() || config->is_null()) return ImageConfig{};
  if (!config->is_object()) return fail("config: expected an object");
  return parse_fields(*config, true);
}

Result<std::string> resolve_user(const std::string& user, const std::string& tree) {
  if (user.empty()) return user;
  const std::size_t colon = user.find(':');
  std::string uid = user.substr(0, colon);
  std::string gid = colon == std::string::npos ? "" : user.substr(colon + 1);
  if (!parse_user_number(uid)) {
    const auto found = look_up(tree + TRY(resolve_in_tree(tree, "/etc/passwd")), uid);
    if (!found) return fail("the image's user {} is not in its /etc/passwd", uid);
    uid = (*found)[0];
    if (gid.empty()) gid = (*found)[1];
  }
  if (!gid.empty() && !parse_user_number(gid)) {
    const auto found = look_up(tree + TRY(resolve_in_tree(tree, "/etc/group")), gid);
    if (!found) return fail("the image's group {} is not in its /etc/group", gid);
    gid = (*found)[0];
  }
  if (!parse_user_number(uid) || (!gid.empty() && !parse_user_number(gid))) {
    return fail("the image's user {} is no user", user);
  }
  return gid.empty() ? uid : uid + ":" + gid;
}

json to_json(const ImageConfig& config) {
  return {{"entrypoint", config.entrypoint},
          {"command", config.command},
          {"environment", config.environment},
          {"user", config.user},
          {"directory", config.directory}};
}

Result<ImageConfig> parse_image_config(const json& object) {
  if (!object.is_object()) return fail("expected an object");
  return parse_fields(object, false);
}

}  // namespace mayfly::cli
