// What a machine is doing, and how that is shown.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/machine_registry.h"
#include "cli/vmm_client.h"

namespace mayfly::cli {

enum class MachineState : std::uint8_t {
  kStarting,
  kRunning,
  kPaused,
  kSilent,  // its VMM does not answer: on its way out, or out of order
};
std::string_view to_text(MachineState state);

VmmClient vmm_client(const FoundMachine& machine, std::chrono::milliseconds patience = VmmClient::kPatience);
// Asks its VMM.
MachineState state_of(const FoundMachine& machine);

struct ListedMachine {
  MachineFacts facts;
  MachineState state;
};
// `now_ms`: since 1970.
std::string as_table(const std::vector<ListedMachine>& machines, std::int64_t now_ms);
nlohmann::ordered_json as_json(const ListedMachine& machine, std::int64_t now_ms);
std::int64_t now_ms();

}  // namespace mayfly::cli
