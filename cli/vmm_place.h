// Where a VMM runs: the folder of the sockets by which it is reached, and the jail around it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/listener.h"
#include "cli/virtual_machine.h"

namespace mayfly::cli {

// Why the caller can have no jail on this host: a clause, for people. Empty: mayfly-jailer can make one.
// Forks.
std::string jail_obstacle();

// The jail of a machine that the caller runs from these files: "root" (made as root, the VMM has a user of
// its own), "userns" (made in a user namespace) or "none".
const char* jail_kind(const RunFiles& files);

// The VMM's own sockets.
inline constexpr std::string_view kVsock = "vsock";
inline constexpr std::string_view kApi = "api";

class VmmPlace {
 public:
  // In `folder`, an absolute path, the machine's own. `id` is the jail's.
  static base::Result<VmmPlace> make(const RunFiles& files, const std::string& folder, const std::string& id);

  [[nodiscard]] bool jailed() const { return !jailer_.empty(); }
  // mayfly-jailer and its options, but for the descriptors to pass and what the VMM is told. Empty without a
  // jail.
  [[nodiscard]] const std::vector<std::string>& jailer() const { return jailer_; }

  // The path of a socket: as we see it (socket_in), and as the VMM does.
  [[nodiscard]] std::string socket(std::string_view name) const { return socket_in(folder_, name); }
  [[nodiscard]] std::string socket_inside(std::string_view name) const;
  // A socket that the VMM may connect to.
  base::Result<std::unique_ptr<Listener>> listen(base::EventLoop& loop, std::string_view name,
                                                 std::function<void(base::UniqueFd)> on_connection) const;

  // Of the machine in `folder`, jail or no jail.
  static std::string socket_in(const std::string& folder, std::string_view name);

 private:
  explicit VmmPlace(std::string folder) : folder_(std::move(folder)) {}
  base::Status make_jail_folder(const RunFiles& files, const std::string& id);

  std::string folder_;
  std::vector<std::string> jailer_;
  std::optional<uid_t> user_;  // of the VMM, where it is not ours
};

}  // namespace mayfly::cli
