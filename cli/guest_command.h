// Further commands in a machine that runs.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/machine_registry.h"
#include "cli/options.h"
#include "cli/session.h"

namespace mayfly::cli {

// Connections to the agent of the guest, one for each stream of a session, by way of the VMM's socket for
// vsock. Waits for the guest to accept them, and not for ever. Fails for a machine that is paused or not up.
base::Result<std::array<base::UniqueFd, Session::kStreams>> open_streams(const FoundMachine& machine);

// Runs a command to its end without a terminal, and without our signals. Its exit status; errors as
// describe_loss() has them, and the guest's own when it cannot start the command, whose `code` is 126 or 127
// then. `errors`: gets the beginning of what it wrote to standard error, too; or null.
base::Result<int> run_in_machine(const FoundMachine& machine, const StartRequest& request,
                                 StandardStreams streams, std::string* errors = nullptr);

// Why a session ended before its command did: the machine was ended, or its agent took no more.
std::string describe_loss(const FoundMachine& machine);

struct ExecOptions : CommandOptions {
  std::string name;
  bool input = false;  // the command gets our standard input
};
// With our standard streams, terminal and signals: as run_in_vm().
base::Result<int> exec_in_machine(const ExecOptions& options);

}  // namespace mayfly::cli
