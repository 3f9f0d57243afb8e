#include "rootfs/init/users.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string_view>

#include "base/unique_fd.h"
#include "rootfs/init/buffer.h"

namespace mayfly::init {
namespace {

// Larger than any file people keep; what is beyond it is not looked at.
constexpr std::size_t kLongestFile = 1U << 20U;

struct Text {
  Buffer buffer;
  std::string_view view;
};

Text read_text(const char* path) {
  Text text;
  const base::UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return text;
  text.buffer = Buffer::allocate(kLongestFile);
  std::size_t length = 0;
  while (length < text.buffer.size()) {
    const ssize_t count =
        ::read(file.get(), text.buffer.bytes().data() + length, text.buffer.size() - length);
    if (count <= 0) break;
    length += static_cast<std::size_t>(count);
  }
  if (length > 0) text.view = {text.buffer.bytes().data(), length};
  return text;
}

// The part of `rest` before the separator, which is taken off it.
std::string_view next_field(std::string_view& rest, char separator) {
  const std::size_t end = rest.find(separator);
  const std::string_view field = rest.substr(0, end);
  rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  return field;
}

std::optional<std::uint32_t> to_number(std::string_view digits) {
  std::uint64_t number = 0;
  if (digits.empty() || digits.size() > 10) return std::nullopt;
  for (const char digit : digits) {
    if (digit < '0' || digit > '9') return std::nullopt;
    number = number * 10 + static_cast<std::uint64_t>(digit - '0');
  }
  if (number > UINT32_MAX) return std::nullopt;
  return static_cast<std::uint32_t>(number);
}

void set_home(User& user, std::string_view home) {
  if (home.empty() || home.size() >= user.home.size()) home = "/";
  user.home.fill('\0');
  std::memcpy(user.home.data(), home.data(), home.size());
}

void find_groups(User& user, std::string_view name, const char* path) {
  const Text text = read_text(path);
  std::string_view rest = text.view;
  while (!rest.empty() && user.group_count < kMostGroups) {
    std::string_view line = next_field(rest, '\n');
    next_field(line, ':');  // name
    next_field(line, ':');  // password
    const auto gid = to_number(next_field(line, ':'));
    while (gid && !line.empty()) {
      if (next_field(line, ',') != name) continue;
      user.groups[user.group_count++] = *gid;
      break;
    }
  }
}

}  // namespace

User find_user(std::uint32_t uid, const char* passwd, const char* group) {
  User user;
  set_home(user, uid == 0 ? "/root" : "/");
  if (uid == 0) return user;
  const Text text = read_text(passwd);
  std::string_view rest = text.view;
  while (!rest.empty()) {
    std::string_view line = next_field(rest, '\n');
    const std::string_view name = next_field(line, ':');
    next_field(line, ':');  // password
    if (to_number(next_field(line, ':')) != uid) continue;
    user.gid = to_number(next_field(line, ':')).value_or(0);
    next_field(line, ':');  // full name
    set_home(user, next_field(line, ':'));
    find_groups(user, name, group);
    break;
  }
  return user;
}

}  // namespace mayfly::init
