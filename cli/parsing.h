// What the command lines of several subcommands have in common.
#pragma once

#include <chrono>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/command_line.h"
#include "cli/options.h"

namespace mayfly::cli {

// A number of seconds above 0, with or without a fraction.
base::Result<std::chrono::milliseconds> parse_seconds(const char* option, const std::string& text);

void replace_first(std::string& text, std::string_view from, std::string_view to);

// Options that say how a command in a guest is run, as they are typed.
struct CommandTexts {
  std::string user;                      // UID or UID:GID
  std::vector<std::string> environment;  // K=V is taken as it is; K is handed on if we have it
};
void add_command_options(CLI::App& app, CommandOptions& options, CommandTexts& texts);
base::Status take_command_texts(const CommandTexts& texts, CommandOptions& options);

// Options, then a command whose words are its own.
struct SplitWords {
  std::string help;                  // or else:
  std::vector<std::string> command;  // with a "--" in it that came after its first word
  bool separated = false;            // by a "--" before its first word
};
base::Result<SplitWords> parse_before_command(CLI::App& app, std::span<const std::string> words,
                                              const char* name);

}  // namespace mayfly::cli
