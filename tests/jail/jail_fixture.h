// Jails made by the program itself, with a probe in the VMM's place.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"
#include "tests/support/temporary_folder.h"

namespace mayfly::test {

// Whether jails can be made as root here; says why not on stderr.
bool have_root();

std::string jailer_program();
std::string probe_program();

// A program that runs, and what it says.
class Program {
 public:
  // `own_group`: it leads a process group, as from an interactive shell. `user`: it is run by this user and
  // group.
  struct How {
    bool own_group = false;
    std::optional<unsigned> user = std::nullopt;
    int pass_fd = -1;          // comes as descriptor 20
    std::string prepare = {};  // a shell command run before, in a mount namespace of its own
  };
  Program(const std::vector<std::string>& words, const How& how);
  explicit Program(const std::vector<std::string>& words) : Program(words, How{}) {}
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  // Until its output contains the text.
  void wait_for(std::string_view text);
  // Closes its stdin and waits for its end. The exit status, or 128 and the signal.
  int finish();
  void close_input() { input_.reset(); }
  [[nodiscard]] const std::string& output() const { return output_; }
  [[nodiscard]] const std::string& errors() const { return errors_; }
  // The value of the probe's line "NAME: VALUE"; empty: no such line.
  [[nodiscard]] std::string value(std::string_view name) const;
  // All its lines.
  [[nodiscard]] std::map<std::string, std::string> values() const;

 private:
  bool read_some();
  pid_t pid_ = -1;
  base::UniqueFd input_, out_, err_;
  std::string output_, errors_;
};

inline constexpr unsigned kUid = 64101;
inline constexpr unsigned kGid = 64102;

// A folder for jails.
class Jails {
 public:
  Jails();
  ~Jails();
  // The command line for a jail "ID" of the probe, with these options, and these words for the probe.
  [[nodiscard]] std::vector<std::string> command(const std::string& id,
                                                 const std::vector<std::string>& options,
                                                 const std::vector<std::string>& words) const;
  [[nodiscard]] std::string base() const { return folder_.path("jails"); }
  [[nodiscard]] std::string probe() const { return probe_; }
  [[nodiscard]] std::string root(const std::string& id) const {
    return base() + "/" + name_ + "/" + id + "/root";
  }
  // The probe's name here: that of the parent cgroups, so unlike any other's.
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const TemporaryFolder& folder() const { return folder_; }
  // Everything that is below the base folder and the cgroup hierarchies' folders of this name, a line each.
  [[nodiscard]] std::string all_that_is_left() const;

 private:
  TemporaryFolder folder_;
  std::string name_;
  std::string probe_;
};

// Runs a jail whose jailer gets SIGKILL when its parent ends, and has that happen: the jail ends, too.
void check_tie(const std::vector<std::string>& command, const Program::How& how);

// A line "NAME:\tVALUE" of /proc/PID/status.
std::string status_of(pid_t pid, std::string_view name);

}  // namespace mayfly::test
