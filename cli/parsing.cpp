#include "cli/parsing.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;

Result<std::chrono::milliseconds> parse_seconds(const char* option, const std::string& text) {
  constexpr double kMost = 1e8;
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value > 0 && value <= kMost)) {
    return fail("{}: {} is not a number of seconds above 0", option, text);
  }
  return std::chrono::milliseconds(std::max<std::int64_t>(static_cast<std::int64_t>(value * 1000), 1));
}

Status parse_user(const std::string& text, CommandOptions& options) {
  const std::size_t colon = text.find(':');
  const auto uid = parse_user_number(std::string_view(text).substr(0, colon));
  if (colon != std::string::npos) options.gid = parse_user_number(std::string_view(text).substr(colon + 1));
  if (!uid || (colon != std::string::npos && !options.gid)) {
    return fail("--user: {} is not UID or UID:GID, in digits", text);
  }
  options.uid = *uid;
  return {};
}

Status parse_environment(const std::vector<std::string>& words, CommandOptions& options) {
  for (const std::string& word : words) {
    const std::size_t equals = word.find('=');
    if (word.empty() || equals == 0) return fail("--env: {} is not NAME=VALUE", word);
    if (equals != std::string::npos) {
      options.environment.push_back(word);
    } else if (const char* const value = std::getenv(word.c_str()); value != nullptr) {
      options.environment.push_back(fmt::format("{}={}", word, value));
    }
  }
  return {};
}

void replace_first(std::string& text, std::string_view from, std::string_view to) {
  const std::size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

void add_command_options(CLI::App& app, CommandOptions& options, CommandTexts& texts) {
  app.add_option("-e,--env", texts.environment, "Set a variable; NAME alone is handed on. May be given again")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app.add_option("-w,--workdir", options.directory, "Where the command starts (default /)")->type_name("DIR");
  app.add_option("-u,--user", texts.user, "Run as this user (default 0)")->type_name("UID[:GID]");
}

Status take_command_texts(const CommandTexts& texts, CommandOptions& options) {
  if (!texts.user.empty()) TRY(parse_user(texts.user, options));
  return parse_environment(texts.environment, options);
}

Result<SplitWords> parse_before_command(CLI::App& app, std::span<const std::string> words, const char* name) {
  // The first word that is no option is the command; what follows is its own.
  app.prefix_command(true);
  // CLI11 does not end a prefix command at "--", so it never gets to see that word.
  const auto separator = std::ranges::find(words, "--");
  SplitWords split;
  split.help = TRY(parse_with(app, std::vector(std::reverse_iterator(separator), words.rend()), name));
  if (!split.help.empty()) return split;
  split.command = app.remaining();
  if (!split.command.empty() && split.command.front().starts_with('-')) {
    return fail("unknown option {} (see mayfly {} --help)", split.command.front(), name);
  }
  if (separator != words.end()) {
    split.separated = split.command.empty();
    split.command.insert(split.command.end(), separator + (split.separated ? 1 : 0), words.end());
  }
  return split;
}

}  // namespace mayfly::cli
