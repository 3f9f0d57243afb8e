#include "jailer/checks.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <system_error>

namespace mayfly::jailer {

using base::fail;
using base::Result;
using base::Status;

namespace {

constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view kDigits = "0123456789";
constexpr std::size_t kLongestId = 64;
constexpr std::size_t kLongestName = 128;
constexpr std::size_t kLongestParent = 1024;
constexpr std::size_t kLongestValue = 4096;
constexpr std::uint32_t kNobodyAtAll = 0xffffffff;  // (uid_t)-1

bool made_of(std::string_view text, std::string_view more) {
  return std::ranges::all_of(text, [&](char c) {
    return kLetters.find(c) != std::string_view::npos || kDigits.find(c) != std::string_view::npos ||
           more.find(c) != std::string_view::npos;
  });
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

std::vector<std::string_view> components(std::string_view path) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t slash = path.find('/');
    parts.push_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    path.remove_prefix(slash + 1);
  }
}

}  // namespace

Status check_id(std::string_view id) {
  if (!id.empty() && id.size() <= kLongestId && made_of(id, "-")) return {};
  return fail("--id \"{}\": not 1 to {} letters, digits and dashes", id, kLongestId);
}

Result<std::string> executable_name(std::string_view path) {
  const std::string_view name = path.substr(path.rfind('/') + 1);
  if (!name.empty() && name.size() <= kLongestName && made_of(name, "._-+") && name.front() != '.') {
    return std::string(name);
  }
  return fail("--exec-file \"{}\": its name is not 1 to {} letters, digits and ._-+ without a dot in front",
              path, kLongestName);
}

Status check_plain_path(std::string_view path) {
  if (path.empty()) return fail("an empty path");
  if (std::ranges::any_of(path, is_control)) return fail("a control character in a path");
  const std::vector<std::string_view> parts = components(path);
  if (std::ranges::find(parts, "..") != parts.end()) return fail("\"{}\" contains \"..\"", path);
  return {};
}

Status check_parent_cgroup(std::string_view parent) {
  const auto bad = [](std::string_view part) {
    return part.empty() || part == "." || part == ".." || std::ranges::any_of(part, is_control);
  };
  if (parent.size() <= kLongestParent && std::ranges::none_of(components(parent), bad)) return {};
  return fail("--parent-cgroup \"{}\": not a relative path of cgroups without \".\" and \"..\"", parent);
}

Result<CgroupSetting> parse_cgroup_setting(std::string_view text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos) return fail("--cgroup \"{}\": not FILE=VALUE", text);
  const CgroupSetting setting{std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  const std::size_t dot = setting.file.find('.');
  const bool named = dot != std::string::npos && dot > 0 && dot + 1 < setting.file.size() &&
                     setting.file.size() <= kLongestName && made_of(setting.file, "._-") &&
                     setting.file.find("..") == std::string::npos;
  if (!named) {
    return fail("--cgroup \"{}\": \"{}\" is not a cgroup's file, as CONTROLLER.NAME", text, setting.file);
  }
  if (setting.value.empty() || setting.value.size() > kLongestValue ||
      std::ranges::any_of(setting.value, is_control)) {
    return fail("--cgroup \"{}\": no value, or one with control characters", text);
  }
  // Who is in a cgroup is the jailer's to say, and nobody else is to be moved or killed.
  if (setting.controller() == "cgroup" && !setting.file.starts_with("cgroup.max.")) {
    return fail("--cgroup \"{}\": of the files cgroup.*, only cgroup.max.* can be set", text);
  }
  return setting;
}

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t least, std::uint64_t most) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size() || value < least ||
      value > most) {
    return fail("\"{}\" is not a number from {} to {}", text, least, most);
  }
  return value;
}

Result<ResourceLimit> parse_resource_limit(std::string_view text) {
  const std::size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  const bool file_size = name == "fsize";
  if (equals == std::string_view::npos || (!file_size && name != "no-file")) {
    return fail("--resource-limit \"{}\": not fsize=BYTES or no-file=NUMBER", text);
  }
  auto value = parse_number(text.substr(equals + 1), 0, RLIM_INFINITY - 1);
  if (!value) return base::fail_because(std::move(value).error(), "--resource-limit {}", name);
  return ResourceLimit{file_size ? RLIMIT_FSIZE : RLIMIT_NOFILE, *value};
}

Result<std::uint32_t> parse_user(std::string_view text) {
  return static_cast<std::uint32_t>(TRY(parse_number(text, 0, kNobodyAtAll - 1)));
}

}  // namespace mayfly::jailer
