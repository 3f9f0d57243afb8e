#include "cli/lifecycle_options.h"

#include <CLI/CLI.hpp>

#include "cli/parsing.h"

namespace mayfly::cli {

using base::Result;

namespace {

constexpr const char* kStopFooter = R"(
The command gets SIGTERM. If it has not ended after the time of --timeout, the guest's agent ends all processes, writes
everything to the disks and powers off; if that takes longer than 10 s more, the machine is killed. A machine without a
command is powered off at once. A paused one is resumed for this.

Exit status: 0 once the machines are gone, 125 otherwise.
)";

constexpr const char* kLogsFooter = R"(
What the command wrote to standard output and standard error, each to ours, and in between what Mayfly has to say
about the machine. The last 4 MiB are there, and at most 8; of the console 512 KiB and 1 MiB. Logs end with their machine:
to keep them, let `mayfly logs -f` write them to a file.

Exit status: 0, or 125 on an error.
)";

struct NamesHelp {
  const char* name;
  const char* summary;
  const char* footer;
};

NamesHelp help_of(NamesCommand command) {
  switch (command) {
    case NamesCommand::kKill:
      return {
          "kill", "Ends machines at once, whatever they are doing.",
          "\nWhat was written to an image with --writable may be incomplete: mayfly stop is better to it.\n\n"
          "Exit status: 0 once the machines are gone, 125 otherwise.\n"};
    case NamesCommand::kWait:
      return {"wait", "Waits for the end of machines.",
              "\nExit status: that of the last one's command, as mayfly run has it.\n"};
    case NamesCommand::kInspect:
      return {"inspect", "Prints all that is known of machines, as JSON: an object, or of several an array.",
              "\nExit status: 0, or 125 on an error.\n"};
  }
  return {};
}

template <typename T>
Result<Parsed<T>> finish(CLI::App& app, std::span<const std::string> words, const char* name, T& options) {
  const std::string help = TRY(parse_with(app, std::vector(words.rbegin(), words.rend()), name));
  if (!help.empty()) return Parsed<T>{std::nullopt, help};
  return Parsed<T>{std::move(options), {}};
}

void add_names(CLI::App& app, std::vector<std::string>& names) {
  app.add_option("NAME", names, "Machines, as mayfly ps names them")->required();
}

}  // namespace

Result<Parsed<PsOptions>> parse_ps(std::span<const std::string> words) {
  PsOptions options;
  CLI::App app{"Lists the machines that run detached.", "mayfly ps"};
  app.footer("\nExit status: 0, or 125 on an error.\n");
  app.add_flag("--json", options.json, "An array of objects");
  app.add_flag("-q,--quiet", options.quiet, "Names only");
  return finish(app, words, "ps", options);
}

Result<Parsed<StopOptions>> parse_stop(std::span<const std::string> words) {
  StopOptions options;
  std::string timeout;
  CLI::App app{"Ends machines in good order.", "mayfly stop"};
  app.footer(kStopFooter);
  app.add_option("-t,--timeout", timeout, "Give commands S seconds to end (default 10)")->type_name("S");
  add_names(app, options.names);
  auto parsed = TRY(finish(app, words, "stop", options));
  if (parsed.options && !timeout.empty()) {
    parsed.options->grace = TRY(parse_seconds("--timeout", timeout));
  }
  return parsed;
}

Result<Parsed<LogsOptions>> parse_logs(std::span<const std::string> words) {
  LogsOptions options;
  CLI::App app{"Prints what a machine's command has written.", "mayfly logs"};
  app.footer(kLogsFooter);
  app.add_flag("-f,--follow", options.follow, "Go on until the machine ends");
  app.add_flag("--console", options.console, "Of the guest's serial console instead");
  app.add_option("-n,--tail", options.tail, "Begin with the last N lines")->type_name("N");
  app.add_option("NAME", options.name, "The machine")->required();
  return finish(app, words, "logs", options);
}

Result<Parsed<NamesOptions>> parse_names(NamesCommand command, std::span<const std::string> words) {
  const NamesHelp help = help_of(command);
  NamesOptions options;
  CLI::App app{help.summary, fmt::format("mayfly {}", help.name)};
  app.footer(help.footer);
  add_names(app, options.names);
  return finish(app, words, help.name, options);
}

}  // namespace mayfly::cli
