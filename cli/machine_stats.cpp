#include "cli/machine_stats.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"
#include "cli/table.h"

namespace mayfly::cli {

namespace {

std::uint64_t counter(const MachineStats& machine, const char* name) {
  const auto found = machine.counters.find(name);
  return found == machine.counters.end() ? 0 : found->second;
}

std::uint64_t seconds_up(const MachineStats& machine) {
  if (machine.facts.started_ms == 0) return 0;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(machine.at_ms - machine.facts.started_ms, 0)) /
         1000;
}

// The second field of /proc/PID/statm: pages in memory.
std::uint64_t memory_of(pid_t pid) {
  const auto text = base::read_file(fmt::format("/proc/{}/statm", pid));
  if (!text) return 0;
  std::istringstream fields(*text);
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  fields >> all >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::map<std::string, std::uint64_t> parse_metrics(std::string_view text) {
  std::map<std::string, std::uint64_t> sums;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::size_t blank = line.rfind(' ');
    if (line.starts_with('#') || blank == std::string_view::npos) continue;
    std::uint64_t value = 0;
    const std::string_view digits = line.substr(blank + 1);
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size()) continue;
    sums[std::string(line.substr(0, std::min(line.find('{'), blank)))] += value;
  }
  return sums;
}

// proc_pid_stat(5): the name, in parentheses, may have anything in it; what follows is fields from the third
// on.
std::optional<std::uint64_t> parse_cpu_ms(std::string_view stat, std::int64_t parent,
                                          std::uint64_t ticks_a_second) {
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string_view::npos || ticks_a_second == 0) return std::nullopt;
  std::istringstream fields{std::string(stat.substr(name_end + 1))};
  std::string state;
  std::int64_t actual_parent = 0;
  fields >> state >> actual_parent;
  std::string skipped;
  for (int field = 5; field < 14; ++field) fields >> skipped;
  std::uint64_t user = 0;
  std::uint64_t system = 0;
  fields >> user >> system;
  if (!fields || actual_parent != parent) return std::nullopt;
  return (user + system) * 1000 / ticks_a_second;
}

double MachineStats::cpu_percent(const MachineStats* before) const {
  const std::int64_t from_ms = before != nullptr ? before->at_ms : facts.started_ms;
  const std::uint64_t from_cpu = before != nullptr ? before->cpu_ms : 0;
  if (from_ms == 0 || at_ms <= from_ms || cpu_ms < from_cpu) return 0;
  return 100.0 * static_cast<double>(cpu_ms - from_cpu) / static_cast<double>(at_ms - from_ms);
}

MachineStats gather_stats(const FoundMachine& machine) {
  MachineStats stats;
  stats.facts = machine.facts;
  stats.state = state_of(machine);
  stats.at_ms = now_ms();
  const auto text = base::read_file(fmt::format("/proc/{}/stat", machine.facts.vmm_pid));
  const auto ticks = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  // A process that is not its child has only its number.
  const auto cpu = text ? parse_cpu_ms(*text, machine.facts.pid, ticks) : std::nullopt;
  if (!cpu) return stats;
  stats.cpu_ms = *cpu;
  stats.memory_bytes = memory_of(machine.facts.vmm_pid);
  if (const auto metrics = vmm_client(machine).get("/metrics")) stats.counters = parse_metrics(*metrics);
  return stats;
}

std::string as_table(const std::vector<MachineStats>& machines, const std::vector<MachineStats>& before) {
  std::vector<std::vector<std::string>> rows = {
      {"NAME", "STATE", "UP", "CPU", "CPU TIME", "MEMORY", "DISK READ", "WRITTEN", "NET IN", "OUT"}};
  for (const MachineStats& each : machines) {
    rows.push_back({each.facts.name, std::string(to_text(each.state)), as_span(seconds_up(each)),
                    fmt::format("{:.1f} %", each.cpu_percent(find_stats(before, each.facts.name))),
                    fmt::format("{:.2f} s", static_cast<double>(each.cpu_ms) / 1000),
                    fmt::format("{} / {} MiB", as_amount(each.memory_bytes), each.facts.memory_mib),
                    as_amount(counter(each, "mayfly_block_read_bytes")),
                    as_amount(counter(each, "mayfly_block_written_bytes")),
                    as_amount(counter(each, "mayfly_net_rx_bytes")),
                    as_amount(counter(each, "mayfly_net_tx_bytes"))});
  }
  return as_columns(rows, {false, false, true, true, true, true, true, true, true, true});
}

nlohmann::ordered_json as_json(const MachineStats& machine, const MachineStats* before) {
  return {{"name", machine.facts.name},
          {"state", to_text(machine.state)},
          {"uptime_s", seconds_up(machine)},
          {"cpus", machine.facts.cpus},
          {"cpu_percent", machine.cpu_percent(before)},
          {"cpu_ms", machine.cpu_ms},
          {"memory_bytes", machine.memory_bytes},
          {"memory_limit_bytes", machine.facts.memory_mib << 20U},
          {"counters", machine.counters}};
}

const MachineStats* find_stats(const std::vector<MachineStats>& all, const std::string& name) {
  const auto found =
      std::ranges::find_if(all, [&](const MachineStats& each) { return each.facts.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace mayfly::cli
