#include "cli/completion.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "base/file.h"
#include "cli/image_store.h"
#include "cli/machine_registry.h"
#include "cli/tool.h"

namespace mayfly::cli {

using base::fail;
using base::Result;

namespace {

constexpr std::array kSubcommands = std::to_array<Subcommand>({
    {"run", "run a command in a fresh microVM"},
    {"ps", "list the machines that run detached"},
    {"exec", "run a further command in a machine"},
    {"logs", "what a machine's command has written"},
    {"console", "a machine's serial console"},
    {"cp", "copy files between this host and a machine"},
    {"stats", "what machines use"},
    {"inspect", "all that is known of machines"},
    {"pause", "stop the CPUs of machines"},
    {"resume", "let the CPUs of machines run again"},
    {"stop", "end machines in good order"},
    {"kill", "end machines at once"},
    {"wait", "wait for the end of machines"},
    {"image", "make root file systems, and import those of containers"},
    {"drive", "copy-on-write drives"},
    {"doctor", "what this machine can do"},
    {"completion", "the script for a shell's completion"},
    {"version", "the version"},
    {"help", "all of this"},
});

// Subcommands that have subcommands, or that take one of a few words.
struct Words {
  std::string_view after;
  std::array<std::string_view, 4> words;
};
constexpr std::array kWords = std::to_array<Words>({
    {"image", {"build", "import", "ls", "rm"}},
    {"drive", {"create", "show", "flatten", ""}},
    {"completion", {"bash", "zsh", "fish", ""}},
});

constexpr std::array<std::string_view, 8> kTakeNames = {"logs",  "console", "stats", "inspect",
                                                        "pause", "resume",  "stop",  "kill"};

constexpr const char* kBash =
    R"(# bash completion for mayfly. For every shell: mayfly completion bash >/etc/bash_completion.d/mayfly
_mayfly() {
  mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f 1)
  [[ ${COMPREPLY[0]-} != *: ]] || compopt -o nospace 2>/dev/null
}
complete -o default -F _mayfly mayfly
)";

constexpr const char* kZsh = R"(#compdef mayfly
# zsh completion for mayfly. For every shell: mayfly completion zsh >/usr/local/share/zsh/site-functions/_mayfly
_mayfly() {
  local -a found
  found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null | sed 's/:/\\:/g; s/\t/:/')}")
  if [[ -n "${found[1]}" ]]; then
    _describe mayfly found
  else
    _files
  fi
}
if [[ "${funcstack[1]}" == _mayfly ]]; then
  _mayfly "$@"
else
  compdef _mayfly mayfly
fi
)";

constexpr const char* kFish =
    R"(# fish completion for mayfly. For every shell: mayfly completion fish >/etc/fish/completions/mayfly.fish
complete -c mayfly -a '(mayfly __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
)";

constexpr const char* kHelp = R"(Prints the script for a shell's completion.
Usage: mayfly completion bash|zsh|fish

Subcommands, options and the names of machines are completed. The script's first line says where it goes; to try it,
`source <(mayfly completion bash)`, `source <(mayfly completion zsh)` or `mayfly completion fish | source`.

Exit status: 0, or 125 on an error.
)";

std::vector<Candidate> matching(std::vector<Candidate> all, std::string_view prefix) {
  std::erase_if(all, [&](const Candidate& each) { return !each.word.starts_with(prefix); });
  return all;
}

bool is_option(const std::string& word) {
  return word.starts_with('-');
}

std::vector<Candidate> machine_names(const CompletionSource& source, std::string_view suffix) {
  std::vector<Candidate> all;
  for (const std::string& name : source.names()) all.push_back({name + std::string(suffix), "machine"});
  return all;
}

std::vector<Candidate> image_names(const CompletionSource& source) {
  std::vector<Candidate> all;
  for (const std::string& name : source.images()) all.push_back({name, "image"});
  return all;
}

// What stands for itself after a subcommand.
std::vector<Candidate> arguments_of(std::span<const std::string> words, const CompletionSource& source) {
  const std::string& command = words.front();
  const auto before = words.subspan(1, words.size() - 2);
  if (command == "cp") return machine_names(source, ":");
  if (std::ranges::find(kTakeNames, command) != kTakeNames.end() || command == "wait") {
    return machine_names(source, "");
  }
  if (command == "exec" && std::ranges::all_of(before, is_option)) return machine_names(source, "");
  if (command == "run" && std::ranges::all_of(before, is_option)) return image_names(source);
  if (command == "image" && !before.empty() && before.front() == "rm") return image_names(source);
  std::vector<Candidate> all;
  for (const Words& each : kWords) {
    if (each.after != command || !before.empty()) continue;
    for (const std::string_view word : each.words) {
      if (!word.empty()) all.push_back({std::string(word), ""});
    }
  }
  return all;
}

std::string help_of_ourselves(std::span<const std::string> words) {
  const auto folder = base::executable_folder();
  if (!folder) return "";
  Tool tool{.words = {*folder + "/mayfly"}, .environment = {}, .reads_stdin = false, .returns_output = true};
  tool.words.insert(tool.words.end(), words.begin(), words.end());
  tool.words.emplace_back("--help");
  const HeldSignals signals;
  return run_tool(tool, signals).value_or("");
}

std::vector<std::string> names_of_machines() {
  std::vector<std::string> names;
  for (const FoundMachine& each : find_machines()) names.push_back(each.facts.name);
  return names;
}

std::vector<std::string> names_of_images() {
  std::vector<std::string> names;
  const auto folder = ImageStore::default_folder();
  if (!folder) return names;
  for (const StoredImage& each : ImageStore(*folder).list().value_or(std::vector<StoredImage>()))
    names.push_back(each.name);
  return names;
}

}  // namespace

std::span<const Subcommand> subcommands() {
  return kSubcommands;
}

// "  -e,--env NAME=VALUE …   What it does": the last of the names is the long one.
std::vector<Candidate> options_in(std::string_view help) {
  std::vector<Candidate> all;
  while (!help.empty()) {
    std::string_view line = help.substr(0, help.find('\n'));
    help.remove_prefix(std::min(help.size(), line.size() + 1));
    const std::size_t begin = line.find_first_not_of(' ');
    if (begin != 2 || line[begin] != '-') continue;
    line.remove_prefix(begin);
    std::string_view names = line.substr(0, line.find(' '));
    names = names.substr(0, names.find('['));
    const std::size_t text = line.rfind("  ");
    const std::string summary(text == std::string_view::npos ? "" : line.substr(text + 2));
    all.push_back({std::string(names.substr(names.rfind(',') + 1)), summary});
  }
  return all;
}

std::vector<Candidate> complete(std::span<const std::string> words, const CompletionSource& source) {
  if (words.empty()) return {};
  const std::string& last = words.back();
  if (words.size() == 1) {
    std::vector<Candidate> all;
    for (const Subcommand& each : kSubcommands)
      all.push_back({std::string(each.name), std::string(each.summary)});
    return matching(std::move(all), last);
  }
  const auto before = words.first(words.size() - 1);
  // What follows is a guest's.
  if (std::ranges::find(before, "--") != before.end()) return {};
  if (!is_option(last)) return matching(arguments_of(words, source), last);
  // Of a subcommand's subcommand, where there is one.
  const bool nested = words.front() == "image" || words.front() == "drive";
  return matching(options_in(source.help(before.first(nested ? std::min<std::size_t>(before.size(), 2) : 1))),
                  last);
}

Result<int> completion_command(std::span<const std::string> words) {
  const std::string_view shell = words.empty() ? std::string_view() : std::string_view(words.front());
  const char* text = nullptr;
  if (shell == "bash") text = kBash;
  if (shell == "zsh") text = kZsh;
  if (shell == "fish") text = kFish;
  if (shell == "--help" || shell == "-h") text = kHelp;
  if (text == nullptr || words.size() != 1) return fail("mayfly completion takes bash, zsh or fish");
  fmt::print("{}", text);
  return 0;
}

Result<int> complete_command(std::span<const std::string> words) {
  for (const Candidate& each :
       complete(words, {.help = help_of_ourselves, .names = names_of_machines, .images = names_of_images})) {
    fmt::print("{}{}{}\n", each.word, each.summary.empty() ? "" : "\t", each.summary);
  }
  return 0;
}

}  // namespace mayfly::cli
