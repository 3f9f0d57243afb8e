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

constexpr const char* kExecFooter = R"(
The command's standard output and error are ours, and with -i its standard input. It ends with the machine, which ends with
its own command and not with this one. Signals reach it as with mayfly run.

Exit status: the command's own; 128 + n when signal n killed it; 125 when Mayfly itself failed or the machine ended before the
command did; 126 when the command cannot be run; 127 when it is not found.

Examples:
  mayfly exec web -- ps
  mayfly exec -t web -- sh                             a shell
  tar c src | mayfly exec -i web -- tar x -C /tmp
)";

constexpr const char* kStatsFooter = R"(
CPU is that of the virtual machine monitor with its guest, 100 % being one CPU: since the line before with --watch, since the
machine's start without. MEMORY is what of it is in the host's memory, and what the guest has been given. Disk and network
are what the devices have moved since the start. --json has all counters of the devices.

Exit status: 0, or 125 on an error.
)";

constexpr const char* kCopyFooter = R"(
One end is NAME:PATH, a path in a machine; the other a path on this host, with a "/" before any ":" in it. Folders are copied
with all that is in them; links stay links. A copy goes into a target that is a folder; else it gets the target's name. The
guest needs the programs tar and test (busybox has them), and mayfly needs tar. Files belong to root in the guest, to you here.

What a machine sends is unpacked in a folder of its own, and moved to its place when it is nothing but files, folders and
links of the name that was asked for. A folder is not copied over another.

Exit status: 0, or 125 on an error.

Examples:
  mayfly cp site web:/var/www
  mayfly cp web:/var/log/messages .
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
    case NamesCommand::kPause:
      return {"pause", "Stops the CPUs of machines, until mayfly resume.",
              "\nNothing happens to one that is paused.\n\nExit status: 0, or 125 on an error.\n"};
    case NamesCommand::kResume:
      return {"resume", "Lets the CPUs of machines run again.",
              "\nNothing happens to one that runs.\n\nExit status: 0, or 125 on an error.\n"};
    case NamesCommand::kConsole:
      return {"console", "Shows a machine's serial console, and types on it, until the machine ends.",
              "\nIt begins with the last lines. On a terminal Ctrl-] leaves it. Our guest images say nothing "
              "on the console "
              "but what\nthe kernel has to say, and have no login there: mayfly exec -t gives a shell.\n\n"
              "Exit status: 0, or 125 on an error.\n"};
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
  app.add_option("-n,--tail", options.tail, "Begin with the last N lines")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  app.add_option("NAME", options.name, "The machine")->required();
  return finish(app, words, "logs", options);
}

Result<Parsed<NamesOptions>> parse_names(NamesCommand command, std::span<const std::string> words) {
  const NamesHelp help = help_of(command);
  NamesOptions options;
  CLI::App app{help.summary, fmt::format("mayfly {}", help.name)};
  app.footer(help.footer);
  add_names(app, options.names);
  auto parsed = TRY(finish(app, words, help.name, options));
  if (command == NamesCommand::kConsole && parsed.options && parsed.options->names.size() != 1) {
    return base::fail("mayfly console takes one machine");
  }
  return parsed;
}

Result<Parsed<ExecOptions>> parse_exec(std::span<const std::string> words) {
  ExecOptions options;
  CommandTexts texts;
  CLI::App app{"Runs a further command in a machine that runs detached.", "mayfly exec"};
  app.footer(kExecFooter);
  app.add_flag("-i,--interactive", options.input, "Standard input is the command's; else it has none");
  app.add_flag("-t,--tty", options.tty, "Give the command a terminal, shown in ours, with its input");
  add_command_options(app, options, texts);
  SplitWords split = TRY(parse_before_command(app, words, "exec"));
  if (!split.help.empty()) {
    replace_first(split.help, "mayfly exec [OPTIONS]", "mayfly exec [OPTIONS] NAME [--] COMMAND [ARG...]");
    return Parsed<ExecOptions>{std::nullopt, split.help};
  }
  std::vector<std::string>& rest = split.command;
  if (rest.empty()) return base::fail("no machine given: mayfly exec [OPTIONS] NAME -- COMMAND [ARG...]");
  options.name = rest.front();
  rest.erase(rest.begin());
  if (!rest.empty() && rest.front() == "--") rest.erase(rest.begin());
  if (rest.empty()) return base::fail("no command given: mayfly exec [OPTIONS] NAME -- COMMAND [ARG...]");
  if (rest.front().empty()) return base::fail("the command is an empty word");
  options.command = std::move(rest);
  TRY(take_command_texts(texts, options));
  return Parsed<ExecOptions>{std::move(options), {}};
}

Result<Parsed<StatsOptions>> parse_stats(std::span<const std::string> words) {
  StatsOptions options;
  CLI::App app{"Shows what machines use.", "mayfly stats"};
  app.footer(kStatsFooter);
  app.add_flag("-w,--watch", options.watch, "Again every second, in place on a terminal");
  app.add_flag("--json", options.json, "An array of objects, on a line");
  app.add_option("NAME", options.names, "Machines (default: all)");
  return finish(app, words, "stats", options);
}

Result<Parsed<CopyOptions>> parse_copy(std::span<const std::string> words) {
  std::string from;
  std::string to;
  CLI::App app{"Copies files between this host and a machine.", "mayfly cp"};
  app.footer(kCopyFooter);
  app.add_option("FROM", from, "PATH or NAME:PATH")->required();
  app.add_option("TO", to, "NAME:PATH or PATH")->required();
  CopyOptions options;
  auto parsed = TRY(finish(app, words, "cp", options));
  if (parsed.options) *parsed.options = {.from = parse_copy_end(from), .to = parse_copy_end(to)};
  return parsed;
}

}  // namespace mayfly::cli
