// `mayfly drive`: copy-on-write drives, from the words to what is printed.
#pragma once

#include <span>
#include <string>

#include "base/result.h"

namespace mayfly::cli {

// `words`: what follows "drive". Returns the exit status; errors are one line.
base::Result<int> drive_command(std::span<const std::string> words);

}  // namespace mayfly::cli
