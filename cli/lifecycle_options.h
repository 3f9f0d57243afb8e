// The command lines of what is done with machines that run.
#pragma once

#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/copy.h"
#include "cli/guest_command.h"
#include "cli/options.h"

namespace mayfly::cli {

struct PsOptions {
  bool json = false;
  bool quiet = false;  // names only
};
struct NamesOptions {
  std::vector<std::string> names;
};
struct StopOptions : NamesOptions {
  std::optional<std::chrono::milliseconds> grace;
};
struct LogsOptions {
  std::string name;
  bool follow = false;
  bool console = false;
  std::optional<std::size_t> tail;  // lines
};

struct StatsOptions : NamesOptions {  // none: all
  bool watch = false;
  bool json = false;
};
struct CopyOptions {
  CopyEnd from;
  CopyEnd to;
};

// As parse_run(), options.h.
base::Result<Parsed<ExecOptions>> parse_exec(std::span<const std::string> words);
base::Result<Parsed<StatsOptions>> parse_stats(std::span<const std::string> words);
base::Result<Parsed<CopyOptions>> parse_copy(std::span<const std::string> words);
base::Result<Parsed<PsOptions>> parse_ps(std::span<const std::string> words);
base::Result<Parsed<StopOptions>> parse_stop(std::span<const std::string> words);
base::Result<Parsed<LogsOptions>> parse_logs(std::span<const std::string> words);
// Names of machines and nothing else: for these subcommands.
enum class NamesCommand : std::uint8_t { kKill, kWait, kInspect, kPause, kResume, kConsole };
base::Result<Parsed<NamesOptions>> parse_names(NamesCommand command, std::span<const std::string> words);

}  // namespace mayfly::cli
