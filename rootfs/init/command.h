// Starts the command of a session.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>

#include "base/unique_fd.h"
#include "rootfs/init/start_request.h"

namespace mayfly::init {

// A running command and our ends of its standard streams, which do not block. With a terminal, `input` and
// `output` are both its master side and `errors` is not valid.
struct Command {
  pid_t pid = -1;  // also its session and its process group
  base::UniqueFd input;
  base::UniqueFd output;
  base::UniqueFd errors;
};

struct CommandFailure {
  std::uint32_t exit_status = 125;  // as Failed in base/agent_protocol.h
  std::array<char, 512> message{};
};

// Returns once the command was executed and is in `command`, or what kept it from that. Adds PATH, HOME and,
// for a terminal, TERM to the environment of `request` where they are not in it.
std::optional<CommandFailure> start_command(StartRequest& request, Command& command);

}  // namespace mayfly::init
