#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>

namespace mayfly::cli {

using base::fail;
using base::Result;

Result<std::string> parse_with(CLI::App& app, std::vector<std::string> words, const char* name) {
  try {
    app.parse(std::move(words));
  } catch (const CLI::CallForHelp&) {
    return app.help();
  } catch (const CLI::ParseError& error) {
    std::string message = error.what();
    std::ranges::replace(message, '\n', ' ');
    return fail("{} (see mayfly {} --help)", message, name);
  }
  return std::string();
}

std::optional<std::uint32_t> parse_user_number(std::string_view digits) {
  std::uint32_t value = 0;
  const char* const end = digits.data() + digits.size();
  const auto [rest, error] = std::from_chars(digits.data(), end, value);
  // The last one is "no such user" to Linux.
  if (error != std::errc{} || rest != end || value == UINT32_MAX) return std::nullopt;
  return value;
}

}  // namespace mayfly::cli
