#include "cli/machine_status.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "cli/table.h"
#include "cli/vmm_place.h"

namespace mayfly::cli {

namespace {

constexpr std::size_t kWidestCommand = 40;

std::uint64_t seconds_up(const MachineFacts& facts, std::int64_t now) {
  if (facts.started_ms == 0) return 0;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(now - facts.started_ms, 0)) / 1000;
}

}  // namespace

std::string_view to_text(MachineState state) {
  switch (state) {
    case MachineState::kStarting:
      return "starting";
    case MachineState::kRunning:
      return "running";
    case MachineState::kPaused:
      return "paused";
    case MachineState::kSilent:
      return "not answering";
  }
  return "";
}

VmmClient vmm_client(const FoundMachine& machine, std::chrono::milliseconds patience) {
  return VmmClient(VmmPlace::socket_in(machine.path, kApi), patience);
}

MachineState state_of(const FoundMachine& machine) {
  if (machine.facts.started_ms == 0) return MachineState::kStarting;
  const auto answer = vmm_client(machine, std::chrono::seconds(2)).get("/");
  if (!answer) return MachineState::kSilent;
  const auto json = base::parse_json(*answer, "the answer");
  if (!json || !json->is_object() || !json->contains("state")) return MachineState::kSilent;
  return (*json)["state"] == "Paused" ? MachineState::kPaused : MachineState::kRunning;
}

std::string as_table(const std::vector<ListedMachine>& machines, std::int64_t now) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "STATE", "UP", "CPUS", "MEMORY", "COMMAND"}};
  for (const ListedMachine& each : machines) {
    const MachineFacts& facts = each.facts;
    rows.push_back({facts.name, std::string(to_text(each.state)),
                    facts.started_ms == 0 ? "-" : as_span(seconds_up(facts, now)), fmt::to_string(facts.cpus),
                    fmt::format("{} MiB", facts.memory_mib),
                    facts.command.empty() ? "-" : as_command(facts.command, kWidestCommand)});
  }
  return as_columns(rows, {false, false, true, true, true, false});
}

nlohmann::ordered_json as_json(const ListedMachine& machine, std::int64_t now) {
  nlohmann::ordered_json json = as_json(machine.facts);
  json["state"] = to_text(machine.state);
  json["uptime_s"] = seconds_up(machine.facts, now);
  return json;
}

std::int64_t now_ms() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
}

}  // namespace mayfly::cli
