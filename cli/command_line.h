// What every subcommand's words are read with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace mayfly::cli {

// `words` in the reverse order, as CLI11 wants them. The text to print for --help, or "". CLI11 throws;
// nothing of that leaves this function. `name`: of the subcommand, for the error.
base::Result<std::string> parse_with(CLI::App& app, std::vector<std::string> words, const char* name);

// The number of a user or group, in digits; nothing for what is none.
std::optional<std::uint32_t> parse_user_number(std::string_view digits);

}  // namespace mayfly::cli
