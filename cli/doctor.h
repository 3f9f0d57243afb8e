// `mayfly doctor`: what this machine can do, and what to do about what it cannot.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/host_facts.h"

namespace mayfly::cli {

struct Check {
  enum class State : std::uint8_t {
    kGood,
    kNote,  // something is missing that some uses want
    kBad,   // no Linux guest runs here
  };
  std::string name;
  State state;
  std::string finding;
  std::string remedy;  // empty when there is nothing to do
};

// Pure: one check a line of the table, in its order.
std::vector<Check> assess(const HostFacts& facts);
bool can_run_linux_guests(const std::vector<Check>& checks);

std::string as_table(const std::vector<Check>& checks, bool colours);
// {"can_run_linux_guests", "checks": [{"name", "state": "good"|"note"|"bad", "finding", "remedy"}, …]}
std::string as_json(const std::vector<Check>& checks);

}  // namespace mayfly::cli
