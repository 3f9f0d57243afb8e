// `mayfly image`, from its words to what it prints.
#pragma once

#include <span>
#include <string>

#include "base/result.h"

namespace mayfly::cli {

// `words`: what follows "image". Returns the exit status; errors are one line.
base::Result<int> image_command(std::span<const std::string> words);

}  // namespace mayfly::cli
