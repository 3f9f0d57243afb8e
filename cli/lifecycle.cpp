#include "cli/lifecycle.h"

#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/json.h"
#include "cli/detached.h"
#include "cli/lifecycle_options.h"
#include "cli/machine_control.h"
#include "cli/machine_registry.h"
#include "cli/machine_status.h"
#include "cli/run.h"
#include "cli/vmm_place.h"

namespace mayfly::cli {

using base::Result;
using base::Status;

namespace {

constexpr const char* kResumed = R"({"state": "Resumed"})";

int print_help(const std::string& help) {
  fmt::print("{}", help);
  return 0;
}

void complain(const std::string& message) {
  fmt::print(stderr, "mayfly: {}\n", message);
}

// What to keep of a machine that was asked to end, until it has.
struct Asked {
  FoundMachine machine;
  ControlClient client;
};

// Of each name, so that the machines end side by side. `status` becomes that of a failure where one is.
std::vector<Asked> ask_all(const std::vector<std::string>& names, const std::string& request, int& status) {
  std::vector<Asked> asked;
  for (const std::string& name : names) {
    Result<FoundMachine> machine = find_machine(name);
    Result<ControlClient> client = machine ? ControlClient::ask(*machine, request)
                                           : Result<ControlClient>(std::unexpected(machine.error()));
    if (client) {
      asked.push_back({std::move(*machine), std::move(*client)});
    } else {
      complain(client.error().message);
      status = kExitMayflyFailed;
    }
  }
  return asked;
}

// Until they are gone, with their names.
int end_all(const std::vector<std::string>& names, const std::string& request) {
  int status = 0;
  for (Asked& each : ask_all(names, request, status)) {
    const Result<int> end = each.client.wait();
    wait_until_gone(each.machine);
    // One that was already on its way out is as good.
    if (end || end.error().code == ControlClient::kNobodyKnows) continue;
    complain(end.error().message);
    status = kExitMayflyFailed;
  }
  return status;
}

Result<nlohmann::ordered_json> describe(const std::string& name) {
  const FoundMachine machine = TRY(find_machine(name));
  nlohmann::ordered_json json = as_json(ListedMachine{machine.facts, state_of(machine)}, now_ms());
  json["folder"] = machine.path;
  json["api_socket"] = VmmPlace::socket_in(machine.path, kApi);
  json["vsock_socket"] = VmmPlace::socket_in(machine.path, kVsock);
  // A machine that is just coming up or going has none.
  if (const auto configuration = vmm_client(machine).get("/vm/config")) {
    if (auto parsed = base::parse_json(*configuration, "the configuration")) {
      json["configuration"] = std::move(*parsed);
    }
  }
  return json;
}

// Each of them, whatever becomes of the others.
Result<int> set_state(NamesCommand command, const char* body, std::span<const std::string> words) {
  const auto parsed = TRY(parse_names(command, words));
  if (!parsed.options) return print_help(parsed.help);
  int status = 0;
  for (const std::string& name : parsed.options->names) {
    const Result<FoundMachine> machine = find_machine(name);
    const Status done = machine ? vmm_client(*machine).patch("/vm", body) : std::unexpected(machine.error());
    if (done) continue;
    complain(machine ? fmt::format("{}: {}", name, done.error().message) : done.error().message);
    status = kExitMayflyFailed;
  }
  return status;
}

std::string dump(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

Result<int> ps_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_ps(words));
  if (!parsed.options) return print_help(parsed.help);
  std::vector<ListedMachine> machines;
  for (FoundMachine& each : find_machines()) {
    const MachineState state = parsed.options->quiet ? MachineState::kRunning : state_of(each);
    machines.push_back({std::move(each.facts), state});
  }
  if (parsed.options->json) {
    auto all = nlohmann::ordered_json::array();
    for (const ListedMachine& each : machines) all.push_back(as_json(each, now_ms()));
    fmt::print("{}\n", dump(all));
  } else if (parsed.options->quiet) {
    for (const ListedMachine& each : machines) fmt::print("{}\n", each.facts.name);
  } else {
    fmt::print("{}", as_table(machines, now_ms()));
  }
  return 0;
}

Result<int> stop_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_stop(words));
  if (!parsed.options) return print_help(parsed.help);
  const StopOptions& options = *parsed.options;
  // A signal means nothing to a guest that stands still. What is not there is told of below.
  for (const std::string& name : options.names) {
    const auto machine = find_machine(name);
    if (machine && state_of(*machine) == MachineState::kPaused) {
      static_cast<void>(vmm_client(*machine).patch("/vm", kResumed));
    }
  }
  const auto grace = options.grace.value_or(std::chrono::milliseconds(kDefaultStopGrace));
  return end_all(options.names, fmt::format("stop {}", grace.count()));
}

Result<int> kill_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_names(NamesCommand::kKill, words));
  if (!parsed.options) return print_help(parsed.help);
  return end_all(parsed.options->names, "kill");
}

Result<int> wait_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_names(NamesCommand::kWait, words));
  if (!parsed.options) return print_help(parsed.help);
  int failed = 0;
  int status = 0;
  for (Asked& each : ask_all(parsed.options->names, "wait", failed)) {
    const Result<int> end = each.client.wait();
    wait_until_gone(each.machine);
    if (!end) complain(end.error().message);
    status = end ? *end : kExitMayflyFailed;
  }
  return failed != 0 ? failed : status;
}

Result<int> pause_command(std::span<const std::string> words) {
  return set_state(NamesCommand::kPause, R"({"state": "Paused"})", words);
}

Result<int> resume_command(std::span<const std::string> words) {
  return set_state(NamesCommand::kResume, kResumed, words);
}

Result<int> exec_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_exec(words));
  return parsed.options ? exec_in_machine(*parsed.options) : print_help(parsed.help);
}

Result<int> copy_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_copy(words));
  if (!parsed.options) return print_help(parsed.help);
  TRY(copy_files(parsed.options->from, parsed.options->to));
  return 0;
}

Result<int> inspect_command(std::span<const std::string> words) {
  const auto parsed = TRY(parse_names(NamesCommand::kInspect, words));
  if (!parsed.options) return print_help(parsed.help);
  const std::vector<std::string>& names = parsed.options->names;
  auto all = nlohmann::ordered_json::array();
  for (const std::string& name : names) all.push_back(TRY(describe(name)));
  fmt::print("{}\n", dump(names.size() == 1 ? all.front() : all));
  return 0;
}

}  // namespace mayfly::cli
