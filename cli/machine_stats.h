// What machines use.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/machine_registry.h"
#include "cli/machine_status.h"

namespace mayfly::cli {

// By name, summed over devices: "mayfly_block_read_bytes". Of Prometheus' text format, as GET /metrics has
// it; lines that are not understood are left out.
std::map<std::string, std::uint64_t> parse_metrics(std::string_view text);

// Of a process, user and system, in milliseconds: from the text of /proc/PID/stat, whose parent must be
// `parent`.
std::optional<std::uint64_t> parse_cpu_ms(std::string_view stat, std::int64_t parent,
                                          std::uint64_t ticks_a_second);

struct MachineStats {
  MachineFacts facts;
  MachineState state = MachineState::kStarting;
  std::int64_t at_ms = 0;          // since 1970
  std::uint64_t cpu_ms = 0;        // that the VMM has used, its guest's included
  std::uint64_t memory_bytes = 0;  // of it that are in memory, the guest's included
  std::map<std::string, std::uint64_t> counters;
  // Since `before`, or without one since the machine started, of one CPU.
  [[nodiscard]] double cpu_percent(const MachineStats* before) const;
};

MachineStats gather_stats(const FoundMachine& machine);

// `before`: of the same machines some time ago, in any order; or none.
std::string as_table(const std::vector<MachineStats>& machines, const std::vector<MachineStats>& before);
nlohmann::ordered_json as_json(const MachineStats& machine, const MachineStats* before);
const MachineStats* find_stats(const std::vector<MachineStats>& all, const std::string& name);

}  // namespace mayfly::cli
