#include "cli/machine_registry.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "cli/machine_name.h"
#include "cli/runtime_folder.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr const char* kMachines = "/machines";
constexpr std::string_view kTurnFile = ".lock";
constexpr const char* kLockFile = "/lock";
constexpr const char* kFactsFile = "/machine.json";
constexpr int kMostMadeUpNames = 100;

// fcntl(2) on the whole file; 0, or an errno value. `type` is changed by F_OFD_GETLK.
int lock(int fd, int command, short& type) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  for (;;) {
    const int result = ::fcntl(fd, command, &range);
    type = range.l_type;
    if (result == 0) return 0;
    if (errno != EINTR) return errno;
  }
}

bool is_locked(int fd) {
  short type = F_WRLCK;
  return lock(fd, F_OFD_GETLK, type) == 0 && type != F_UNLCK;
}

UniqueFd open_lock(const std::string& folder) {
  return UniqueFd(::open((folder + kLockFile).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
}

// While it lives nobody else makes entries, or removes what is left of old ones, in this folder.
Result<UniqueFd> take_turn(const std::string& machines) {
  UniqueFd fd = TRY(base::open_file(fmt::format("{}/{}", machines, kTurnFile), O_RDWR | O_CREAT));
  short type = F_WRLCK;
  if (const int error = lock(fd.get(), F_OFD_SETLKW, type); error != 0) {
    return fail_errno(error, "lock {}/{}", machines, kTurnFile);
  }
  return fd;
}

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

// An entry of this name, with its lock held. It is our turn. Nothing when there is one already.
Result<UniqueFd> make_entry(const std::string& path) {
  if (exists(path)) {
    const UniqueFd old = open_lock(path);
    if (old.valid() && is_locked(old.get())) return UniqueFd();
    remove_folder(path);
  }
  if (::mkdir(path.c_str(), 0700) < 0) return fail_errno(errno, "make {}", path);
  UniqueFd fd = TRY(base::open_file(path + kLockFile, O_RDWR | O_CREAT | O_EXCL));
  short type = F_WRLCK;
  if (const int error = lock(fd.get(), F_OFD_SETLK, type); error != 0) {
    return fail_errno(error, "lock {}{}", path, kLockFile);
  }
  return fd;
}

Status check_length(const std::string& path) {
  if (path.size() + 1 + RuntimeFolder::kLongestName < sizeof(sockaddr_un::sun_path)) return {};
  return fail("{} is too long a path for sockets: take a shorter --name, or set XDG_RUNTIME_DIR", path);
}

// `name`, or one of ours, and the lock of its entry.
Result<std::pair<std::string, UniqueFd>> take_name(const std::string& machines, const std::string& name) {
  const UniqueFd turn = TRY(take_turn(machines));
  for (int i = 0; i < kMostMadeUpNames; ++i) {
    std::string chosen = name.empty() ? made_up_name() : name;
    const std::string path = fmt::format("{}/{}", machines, chosen);
    TRY(check_length(path));
    UniqueFd fd = TRY(make_entry(path));
    if (fd.valid()) return std::pair(std::move(chosen), std::move(fd));
    if (!name.empty()) {
      return fail("a machine named {0} runs already: take another name, or end it with mayfly stop {0}",
                  name);
    }
  }
  return fail("no free name was found: give one with --name");
}

// One that is kept, or nothing.
std::optional<FoundMachine> look_at(const std::string& path) {
  UniqueFd fd = open_lock(path);
  if (!fd.valid() || !is_locked(fd.get())) return std::nullopt;
  FoundMachine found{.facts = {}, .path = path, .lock = std::move(fd)};
  // What has just been made has none yet.
  if (const auto text = base::read_file(path + kFactsFile)) {
    if (auto facts = parse_facts(*text)) found.facts = std::move(*facts);
  }
  found.facts.name = path.substr(path.rfind('/') + 1);
  return found;
}

void find_in(const std::string& machines, std::vector<FoundMachine>& found) {
  std::vector<std::string> left;
  std::error_code error;
  // Where it cannot be read there is nothing of ours.
  for (auto it = std::filesystem::directory_iterator(machines, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename();
    if (name == kTurnFile) continue;
    auto machine = look_at(it->path());
    if (!machine) {
      left.push_back(it->path());
    } else if (!name.starts_with('.')) {  // what is on its way out has another name
      found.push_back(std::move(*machine));
    }
  }
  if (left.empty()) return;
  const auto turn = take_turn(machines);
  if (!turn) return;
  for (const std::string& path : left) {
    // It may have been made a moment ago.
    if (!look_at(path)) remove_folder(path);
  }
}

}  // namespace

nlohmann::ordered_json as_json(const MachineFacts& facts) {
  return {{"name", facts.name},
          {"pid", facts.pid},
          {"vmm_pid", facts.vmm_pid},
          {"command", facts.command},
          {"cpus", facts.cpus},
          {"memory_mib", facts.memory_mib},
          {"root_mode", facts.root_mode},
          {"kernel", facts.kernel},
          {"rootfs", facts.rootfs},
          {"network", facts.network},
          {"jail", facts.jail},
          {"publish", facts.publishes},
          {"created_ms", facts.created_ms},
          {"started_ms", facts.started_ms}};
}

Result<MachineFacts> parse_facts(std::string_view text) {
  const nlohmann::json json = TRY(base::parse_json(text, "the machine's description"));
  try {
    return MachineFacts{.name = json.at("name"),
                        .pid = json.at("pid"),
                        .vmm_pid = json.at("vmm_pid"),
                        .command = json.at("command"),
                        .cpus = json.at("cpus"),
                        .memory_mib = json.at("memory_mib"),
                        .root_mode = json.at("root_mode"),
                        .kernel = json.at("kernel"),
                        .rootfs = json.at("rootfs"),
                        .network = json.at("network"),
                        .jail = json.at("jail"),
                        .publishes = json.at("publish"),
                        .created_ms = json.at("created_ms"),
                        .started_ms = json.at("started_ms")};
  } catch (const nlohmann::json::exception& error) {
    return fail("the machine's description: {}", error.what());
  }
}

Result<MachineEntry> MachineEntry::create(const std::string& name) {
  return create_below(runtime_parents(), name);
}

Result<MachineEntry> MachineEntry::create_below(const std::vector<std::string>& parents,
                                                const std::string& name) {
  std::vector<std::string> reasons;
  for (const std::string& parent : parents) {
    const std::string machines = parent + kMachines;
    Status made = make_private_folder(parent);
    if (made) made = make_private_folder(machines);
    if (!made) {
      reasons.push_back(made.error().message);
      continue;
    }
    auto [chosen, fd] = TRY(take_name(machines, name));
    std::string path = fmt::format("{}/{}", machines, chosen);
    return MachineEntry(std::move(chosen), std::move(path), std::move(fd));
  }
  return fail("no folder for the state of machines ({}); set XDG_RUNTIME_DIR to a folder of yours",
              fmt::join(reasons, "; "));
}

MachineEntry::~MachineEntry() {
  if (path_.empty()) return;
  struct stat ours {};
  struct stat there {};
  const bool still_ours = ::fstat(lock_.get(), &ours) == 0 &&
                          ::stat((path_ + kLockFile).c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
                          ours.st_dev == there.st_dev;
  if (still_ours) remove_folder(path_);
}

Status MachineEntry::write(const MachineFacts& facts) const {
  return base::write_file_atomically(
      path_ + kFactsFile,
      as_json(facts).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), 0600);
}

std::vector<FoundMachine> find_machines() {
  return find_machines_below(runtime_parents());
}

std::vector<FoundMachine> find_machines_below(const std::vector<std::string>& parents) {
  std::vector<FoundMachine> found;
  for (const std::string& parent : parents) {
    // Others may have made what is in /tmp.
    if (check_private_folder(parent)) find_in(parent + kMachines, found);
  }
  std::ranges::sort(found, {}, [](const FoundMachine& machine) { return machine.facts.name; });
  return found;
}

Result<FoundMachine> find_machine(const std::string& name) {
  TRY(check_machine_name(name));
  std::vector<std::string> names;
  for (FoundMachine& each : find_machines()) {
    if (each.facts.name == name) return std::move(each);
    names.push_back(each.facts.name);
  }
  if (names.empty()) return fail("no machine named {} runs; none does", name);
  return fail("no machine named {} runs; these do: {}", name, fmt::join(names, ", "));
}

bool is_kept(const FoundMachine& machine) {
  return is_locked(machine.lock.get());
}

void wait_until_gone(const FoundMachine& machine) {
  short type = F_RDLCK;
  if (lock(machine.lock.get(), F_OFD_SETLKW, type) != 0) return;
  type = F_UNLCK;
  lock(machine.lock.get(), F_OFD_SETLK, type);
}

}  // namespace mayfly::cli
