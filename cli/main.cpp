// The command that people type.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/timeline.h"
#include "cli/checks.h"
#include "cli/completion.h"
#include "cli/detached.h"
#include "cli/doctor.h"
#include "cli/drive_command.h"
#include "cli/image_command.h"
#include "cli/image_run.h"
#include "cli/lifecycle.h"
#include "cli/options.h"
#include "cli/run.h"
#include "cli/virtual_machine.h"
#include "cli/vmm_place.h"

namespace {

using namespace mayfly;
using base::Result;

// The jailer, or nothing where there can be no jail.
Result<std::string> find_jail(const std::string& folder) {
  const std::string obstacle = cli::jail_obstacle();
  if (obstacle.empty()) return cli::find_jailer(folder);
  fmt::print(stderr, "mayfly: no jail around this virtual machine: {}; --no-jail says that you know\n",
             obstacle);
  return std::string();
}

Result<int> run(std::span<const std::string> words, std::uint64_t start_ns) {
  auto parsed = TRY(cli::parse_run(words));
  if (!parsed.options) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  if (!parsed.options->image.empty()) {
    const cli::ImageStore store(TRY(cli::ImageStore::default_folder()));
    const cli::StoredImage image = TRY(store.find(parsed.options->image));
    TRY(cli::apply_image(image, *parsed.options));
  }
  const std::string folder = TRY(base::executable_folder());
  cli::RunFiles files = TRY(cli::find_files(*parsed.options, folder));
  TRY(cli::check_files(files, *parsed.options));
  TRY(cli::check_host());
  if (!parsed.options->no_jail) files.jailer = TRY(find_jail(folder));
  return parsed.options->detach ? cli::run_detached(*parsed.options, files)
                                : cli::run_in_vm(*parsed.options, files, start_ns);
}

Result<int> doctor(std::span<const std::string> words) {
  const auto parsed = TRY(cli::parse_doctor(words));
  if (!parsed.options) {
    fmt::print("{}", parsed.help);
    return 0;
  }
  const auto checks = cli::assess(cli::gather_facts(TRY(base::executable_folder())));
  const bool colours = ::isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  if (!parsed.options->quiet) {
    fmt::print("{}", parsed.options->json ? cli::as_json(checks) : cli::as_table(checks, colours));
  }
  return cli::can_run_linux_guests(checks) ? 0 : 1;
}

Result<int> version(std::span<const std::string> words) {
  if (words.empty()) {
    fmt::print("mayfly v{}\n", MAYFLY_VERSION);
  } else if (words.size() == 1 && words.front() == "--json") {
    fmt::print("{{\"version\": \"{}\"}}\n", MAYFLY_VERSION);
  } else if (words.front() == "--help" || words.front() == "-h") {
    fmt::print(
        "Prints the version.\nUsage: mayfly version [OPTIONS]\n\nOptions:\n  --json   One JSON object\n");
  } else {
    return base::fail("mayfly version takes --json or nothing, and not {}", words.front());
  }
  return 0;
}

Result<int> dispatch(std::span<const std::string> words, std::uint64_t start_ns) {
  if (words.empty()) return base::fail("no command given (see mayfly --help)");
  const std::string& command = words.front();
  const auto rest = words.subspan(1);
  if (command == "run") return run(rest, start_ns);
  if (command == "ps") return cli::ps_command(rest);
  if (command == "stop") return cli::stop_command(rest);
  if (command == "kill") return cli::kill_command(rest);
  if (command == "wait") return cli::wait_command(rest);
  if (command == "logs") return cli::logs_command(rest);
  if (command == "inspect") return cli::inspect_command(rest);
  if (command == "exec") return cli::exec_command(rest);
  if (command == "console") return cli::console_command(rest);
  if (command == "cp") return cli::copy_command(rest);
  if (command == "stats") return cli::stats_command(rest);
  if (command == "pause") return cli::pause_command(rest);
  if (command == "resume") return cli::resume_command(rest);
  if (command == "completion") return cli::completion_command(rest);
  if (command == "__complete") return cli::complete_command(rest);
  if (command == "doctor") return doctor(rest);
  if (command == "drive") return cli::drive_command(rest);
  if (command == "image") return cli::image_command(rest);
  if (command == "version" || command == "--version" || command == "-V") return version(rest);
  if (command == "help" || command == "--help" || command == "-h") {
    fmt::print("{}", cli::main_help());
    return 0;
  }
  return base::fail("unknown command {} (see mayfly --help)", command);
}

// Descriptors 0, 1 and 2 are there, whoever started us: a socket of ours must not become standard output.
void fill_standard_descriptors() {
  for (;;) {
    const int fd = ::open("/dev/null", O_RDWR);
    if (fd < 0) return;
    if (fd <= STDERR_FILENO) continue;
    ::close(fd);
    return;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t start_ns = base::timeline::now_ns();
  fill_standard_descriptors();
  try {
    const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
    const Result<int> status = dispatch(words, start_ns);
    if (status) return *status;
    fmt::print(stderr, "mayfly: {}\n", status.error().message);
  } catch (const std::exception& error) {
    // Out of memory; what else a library may throw.
    std::fputs("mayfly: ", stderr);
    std::fputs(error.what(), stderr);
    std::fputs("\n", stderr);
  }
  return cli::kExitMayflyFailed;
}
