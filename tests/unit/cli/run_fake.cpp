// `mayfly run` with the fake VMM beside it, on machines of every kind: whether the host can run guests is not
// asked.
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/timeline.h"
#include "cli/checks.h"
#include "cli/detached.h"
#include "cli/lifecycle.h"
#include "cli/options.h"
#include "cli/run.h"

namespace {

using namespace mayfly;

// The first word may be another subcommand, with "@" before it.
base::Result<int> run(const std::vector<std::string>& words, std::uint64_t start_ns) {
  const auto rest = std::span(words).subspan(words.empty() ? 0 : 1);
  if (!words.empty() && words.front() == "@ps") return cli::ps_command(rest);
  if (!words.empty() && words.front() == "@stop") return cli::stop_command(rest);
  if (!words.empty() && words.front() == "@kill") return cli::kill_command(rest);
  if (!words.empty() && words.front() == "@wait") return cli::wait_command(rest);
  if (!words.empty() && words.front() == "@console") return cli::console_command(rest);
  if (!words.empty() && words.front() == "@logs") return cli::logs_command(rest);
  const auto parsed = TRY(cli::parse_run(words));
  const std::string folder = TRY(base::executable_folder());
  cli::RunFiles files{.vmm = folder + "/fake_vmm", .kernel = parsed.options->kernel, .rootfs = "none"};
  return parsed.options->detach ? cli::run_detached(*parsed.options, files)
                                : cli::run_in_vm(*parsed.options, files, start_ns);
}

}  // namespace

int main(int argc, char** argv) {
  const auto status = run({argv + 1, argv + argc}, base::timeline::now_ns());
  if (status) return *status;
  fmt::print(stderr, "mayfly: {}\n", status.error().message);
  return cli::kExitMayflyFailed;
}
