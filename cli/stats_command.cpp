#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/lifecycle.h"
#include "cli/lifecycle_options.h"
#include "cli/machine_stats.h"

namespace mayfly::cli {

using base::Result;

namespace {

constexpr std::chrono::seconds kInterval{1};

Result<std::vector<MachineStats>> gather(const std::vector<std::string>& names) {
  std::vector<MachineStats> all;
  if (names.empty()) {
    for (const FoundMachine& each : find_machines()) all.push_back(gather_stats(each));
  }
  for (const std::string& name : names) all.push_back(gather_stats(TRY(find_machine(name))));
  return all;
}

std::string as_text(const std::vector<MachineStats>& now, const std::vector<MachineStats>& before,
                    bool json) {
  if (!json) return as_table(now, before);
  auto all = nlohmann::ordered_json::array();
  for (const MachineStats& each : now) all.push_back(as_json(each, find_stats(before, each.facts.name)));
  return all.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

Result<int> stats_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_stats(words));
  if (!parsed.options) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  const StatsOptions& options = *parsed.options;
  // In place where that means something: home, the new text, and what was below it erased.
  const bool live = options.watch && !options.json && ::isatty(STDOUT_FILENO) == 1;
  if (live) fmt::print("\033[H\033[2J");
  std::vector<MachineStats> before;
  for (;;) {
    std::vector<MachineStats> now = TRY(gather(options.names));
    std::string text = as_text(now, before, options.json);
    if (live) {
      for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 4)
        text.replace(at, 1, "\033[K\n");
      text = "\033[H" + text + "\033[J";
    }
    fmt::print("{}", text);
    std::fflush(stdout);
    if (!options.watch || std::ferror(stdout) != 0) return 0;
    before = std::move(now);
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace mayfly::cli
