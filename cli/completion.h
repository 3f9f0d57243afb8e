// What can be typed next: for shells' completion.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

struct Subcommand {
  std::string_view name;
  std::string_view summary;
};
// Those that people type.
std::span<const Subcommand> subcommands();

struct Candidate {
  std::string word;
  std::string summary;  // or empty
};

// The options in a help text as ours are laid out.
std::vector<Candidate> options_in(std::string_view help);

// What may become of the last of `words`, which follow "mayfly"; nothing where it is a file or a guest's
// command. `help` gives the text that words followed by --help print; `names` those of machines, `images` of
// stored images.
struct CompletionSource {
  std::string (*help)(std::span<const std::string> words);
  std::vector<std::string> (*names)();
  std::vector<std::string> (*images)();
};
std::vector<Candidate> complete(std::span<const std::string> words, const CompletionSource& source);

// `mayfly completion SHELL` prints the script for a shell; `mayfly __complete WORD…` is what those scripts
// ask, and prints candidates, each with a tab and its summary.
base::Result<int> completion_command(std::span<const std::string> words);
base::Result<int> complete_command(std::span<const std::string> words);

}  // namespace mayfly::cli
