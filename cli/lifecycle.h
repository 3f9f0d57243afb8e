// What people do with machines that run detached: the subcommands.
#pragma once

#include <span>
#include <string>

#include "base/result.h"

namespace mayfly::cli {

// Each takes the words after its name, prints, and returns the exit status; errors are for standard error.
base::Result<int> ps_command(std::span<const std::string> words);
base::Result<int> stop_command(std::span<const std::string> words);
base::Result<int> kill_command(std::span<const std::string> words);
base::Result<int> wait_command(std::span<const std::string> words);
base::Result<int> logs_command(std::span<const std::string> words);
base::Result<int> inspect_command(std::span<const std::string> words);
base::Result<int> exec_command(std::span<const std::string> words);
base::Result<int> pause_command(std::span<const std::string> words);
base::Result<int> resume_command(std::span<const std::string> words);
base::Result<int> console_command(std::span<const std::string> words);
base::Result<int> stats_command(std::span<const std::string> words);
base::Result<int> copy_command(std::span<const std::string> words);

}  // namespace mayfly::cli
