// Runs programs of the host that do part of our work, and finds them.
#pragma once

#include <csignal>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

// Keeps SIGINT, SIGTERM, SIGHUP blocked while it lives, so that what was begun is cleared away.
class HeldSignals {
 public:
  HeldSignals();
  ~HeldSignals();
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;
  [[nodiscard]] const sigset_t& before() const { return before_; }
  // One that asks to stop has come.
  [[nodiscard]] static bool stop_asked();

 private:
  sigset_t held_{};
  sigset_t before_{};
};

struct Tool {
  std::vector<std::string>
      words;  // the program, a path or looked up in PATH and in /usr/sbin and /sbin, and its arguments
  std::vector<std::string> environment;  // NAME=VALUE, besides ours
  bool reads_stdin = false;
  bool returns_output = false;
};

// Of an attempt that changes the process which makes it: made in a child, so that we stay as we are. The
// errno value it ended with; 0: it worked.
int error_in_child(bool (*attempt)());

// Whether there is such a program.
bool has_tool(const std::string& name);
// Where it is; the error names the Debian package that has it.
base::Result<std::string> find_tool(const std::string& name);

// Runs it to its end with nothing to be seen of it. What it said on standard error is returned, and with
// `returns_output` what it printed; an exit status other than 0 is an error with the first line of that.
base::Result<std::string> run_tool(const Tool& tool, const HeldSignals& signals);

}  // namespace mayfly::cli
