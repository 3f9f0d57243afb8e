// Names of machines.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::cli {

// A machine's sockets are in a folder of its name, and a socket's path is short.
inline constexpr std::size_t kLongestMachineName = 40;

// 1 to kLongestMachineName of a-z A-Z 0-9 -, the first a letter or digit, so that it is an instance's id to
// the VMM as well. The error says so.
base::Status check_machine_name(std::string_view name);

// Two words and a number, different each time as far as chance goes.
std::string made_up_name();

}  // namespace mayfly::cli
