// A pseudo-terminal for a command.
#pragma once

#include <cstdint>

#include "base/unique_fd.h"

namespace mayfly::init {

struct Terminal {
  base::UniqueFd master;  // does not block
  base::UniqueFd slave;
};

// The slave belongs to `uid`. Not valid() on failure, with errno set.
Terminal open_terminal(std::uint32_t uid, std::uint16_t rows, std::uint16_t columns);

// Zero rows or columns are passed on: they mean "unknown" to a terminal.
void set_window_size(int terminal, std::uint16_t rows, std::uint16_t columns);

}  // namespace mayfly::init
