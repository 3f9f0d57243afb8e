// mayfly-jailer: makes a jail, and becomes mayfly-vmm in it.
#include <fmt/format.h>

#include <cstdio>

#include "jailer/cleanup.h"
#include "jailer/jail.h"
#include "jailer/options.h"
#include "jailer/privileges.h"

namespace {

using namespace mayfly;

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

base::Status run(const jailer::Options& options, const jailer::StartTimes& start) {
  // First of all, so that nothing of the caller's is open in a jail that it did not ask for.
  TRY(jailer::close_other_fds(options));
  TRY(jailer::fill_standard_fds());
  return options.cleanup_id.empty() ? jailer::make_jail(options, start) : jailer::clean_up(options);
}

}  // namespace

int main(int argc, char** argv) {
  const jailer::StartTimes start = jailer::times_now();
  jailer::Options options;
  const auto answer = jailer::parse_command_line(argc, argv, options);
  if (!answer) {
    fmt::print(stderr, "mayfly-jailer: {}; see mayfly-jailer --help\n", answer.error().message);
    return kExitUsage;
  }
  if (*answer) {
    fmt::print("{}", (*answer)->text);
    return 0;
  }
  if (options.uid == 0 && options.cleanup_id.empty() && !options.userns) {
    fmt::print(
        stderr,
        "mayfly-jailer: warning: with --uid 0 the VMM owns the host's files: choose a user that owns none\n");
  }
  if (const auto made = run(options, start); !made) {
    fmt::print(stderr, "mayfly-jailer: {}\n", made.error().message);
    return kExitFailed;
  }
  return 0;
}
