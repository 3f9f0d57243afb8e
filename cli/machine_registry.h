// Which detached machines there are: a folder for each, below that of runs (runtime_folder.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

// What is known of a machine without asking it.
struct MachineFacts {
  std::string name;
  pid_t pid = 0;      // of the mayfly that keeps it
  pid_t vmm_pid = 0;  // 0: not started yet
  std::vector<std::string> command;
  unsigned cpus = 0;
  std::uint64_t memory_mib = 0;
  std::string root_mode;
  std::string kernel;
  std::string rootfs;
  std::string network;
  std::string jail;
  std::vector<std::string> publishes;
  std::int64_t created_ms = 0;  // since 1970
  std::int64_t started_ms = 0;  // when the command began, or without one the guest was up; 0: not yet
};
nlohmann::ordered_json as_json(const MachineFacts& facts);
base::Result<MachineFacts> parse_facts(std::string_view text);

// A machine's folder PARENT/machines/NAME, while the machine is there.
//
// A lock on its file "lock" says that it is, and nothing else does: it belongs to the open file, which
// whoever made the entry shares with its keeper, so that it goes with the last of both, whatever ends them,
// and with the host. What nobody holds is removed by whoever comes across it.
class MachineEntry {
 public:
  // `name` is valid, or empty for one that is made up. Fails when there is a machine of that name.
  static base::Result<MachineEntry> create(const std::string& name);
  // Below the first of `parents` that can be used.
  static base::Result<MachineEntry> create_below(const std::vector<std::string>& parents,
                                                 const std::string& name);
  // Removes it, unless the keeper has. By then the name may be somebody else's.
  ~MachineEntry();
  MachineEntry(MachineEntry&& other) noexcept
      : name_(std::move(other.name_)), path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
  MachineEntry(const MachineEntry&) = delete;
  MachineEntry& operator=(const MachineEntry&) = delete;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int lock() const { return lock_.get(); }
  base::Status write(const MachineFacts& facts) const;

 private:
  MachineEntry(std::string name, std::string path, base::UniqueFd lock)
      : name_(std::move(name)), path_(std::move(path)), lock_(std::move(lock)) {}
  std::string name_;
  std::string path_;
  base::UniqueFd lock_;
};

struct FoundMachine {
  MachineFacts facts;
  std::string path;
  base::UniqueFd lock;  // its file
};

// By name. Removes what is left of machines that are gone.
std::vector<FoundMachine> find_machines();
std::vector<FoundMachine> find_machines_below(const std::vector<std::string>& parents);
// The error lists those that run.
base::Result<FoundMachine> find_machine(const std::string& name);

// Whether somebody still keeps it.
bool is_kept(const FoundMachine& machine);
// Returns when nobody keeps it any more: its folder is gone then, unless all who kept it were killed.
void wait_until_gone(const FoundMachine& machine);

}  // namespace mayfly::cli
