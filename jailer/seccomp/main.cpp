// mayfly-filter: compiles system call policies, and holds them against what was seen in use.
#include <fcntl.h>
#include <seccomp.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "jailer/seccomp/audit.h"
#include "jailer/seccomp/compile.h"

namespace {

using namespace mayfly;
using namespace mayfly::jailer::seccomp;
using base::Result;
using base::Status;

constexpr const char* kFooter = R"(
A policy is a text; mayfly's own are jailer/seccomp/*.policy, and their first lines explain the format. To run a VMM with
policies of one's own:
  mayfly-filter compile -o my.filters vmm.policy api.policy vcpu.policy
  mayfly-vmm --seccomp-filter my.filters …

Exit status: 0, or 1 for an error or for findings of audit, 2 for a wrong command line.
)";

struct Options {
  std::vector<std::string> policies;
  std::string output;
  std::string trace;
  Otherwise otherwise = Otherwise::kTrap;
  bool none = false;
};

Result<std::vector<Policy>> read_policies(const std::vector<std::string>& files) {
  std::vector<Policy> policies;
  for (const std::string& file : files) {
    const std::string text = TRY(base::read_file(file));
    policies.push_back(TRY(parse_policy(text, file)));
  }
  return policies;
}

Status compile_to_file(const Options& options) {
  const auto policies = TRY(read_policies(options.policies));
  const auto bytes = encode(TRY(compile_all(policies, options.otherwise)));
  const auto text = std::as_bytes(std::span(bytes));
  return base::write_file_atomically(options.output,
                                     {reinterpret_cast<const char*>(text.data()), text.size()}, 0644);
}

std::string call_names() {
  std::string out;
  // Above all numbers that x86-64 has so far; libseccomp knows those of its release.
  constexpr int kMost = 512;
  int last = 0;
  std::map<int, std::string> names;
  for (int number = 0; number < kMost; ++number) {
    char* const name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, number);
    if (name == nullptr) continue;
    names[number] = name;
    last = number;
    ::free(name);  // NOLINT: libseccomp's malloc
  }
  for (int number = 0; number <= last; ++number) out += fmt::format("    \"{}\",\n", names[number]);
  return out;
}

// The filters as a source of C++, for embedded.h.
Status embed(const Options& options) {
  std::string bytes;
  if (!options.none) {
    const auto policies = TRY(read_policies(options.policies));
    int column = 0;
    for (const std::byte byte : encode(TRY(compile_all(policies, options.otherwise)))) {
      bytes += fmt::format("{},{}", std::to_integer<int>(byte), ++column % 24 == 0 ? "\n" : "");
    }
  }
  const std::string source = fmt::format(
      "// Made by mayfly-filter.\n#include \"jailer/seccomp/embedded.h\"\n\n#include <array>\n\n"
      "namespace mayfly::jailer::seccomp {{\n\nnamespace {{\n"
      "constexpr std::array<std::uint8_t, {}> kBytes{{\n{}}};\n"
      "constexpr auto kNames = std::to_array<std::string_view>({{\n{}}});\n}}  // namespace\n\n"
      "constinit const std::span<const std::uint8_t> kEmbeddedFilters = kBytes;\n"
      "constinit const std::span<const std::string_view> kCallNames = kNames;\n\n"
      "}}  // namespace mayfly::jailer::seccomp\n",
      std::count(bytes.begin(), bytes.end(), ','), bytes, call_names());
  return base::write_file_atomically(options.output, source, 0644);
}

Result<bool> audit_trace(const Options& options) {
  const auto policies = TRY(read_policies(options.policies));
  std::FILE* const file = options.trace == "-" ? stdin : std::fopen(options.trace.c_str(), "re");
  if (file == nullptr) return base::fail_errno(errno, "open {}", options.trace);
  Audit audit(policies);
  char* line = nullptr;
  std::size_t room = 0;
  for (ssize_t n = 0; (n = ::getline(&line, &room, file)) > 0;)
    audit.add({line, static_cast<std::size_t>(n)});
  ::free(line);  // NOLINT: getline's malloc
  if (file != stdin) std::fclose(file);
  fmt::print("{}", audit.report());
  return audit.clean();
}

void add_policies(CLI::App& command, Options& options) {
  command.add_option("POLICY", options.policies, "One file for each of the threads vmm, api and vcpu")
      ->required()
      ->expected(1, 3);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Compiles system call policies for mayfly-vmm."};
  app.footer(kFooter);
  app.set_version_flag("--version", "mayfly-filter v" MAYFLY_VERSION);
  app.require_subcommand(1);
  Options options;
  const std::map<std::string, Otherwise> actions = {
      {"trap", Otherwise::kTrap}, {"kill", Otherwise::kKill}, {"log", Otherwise::kLog}};
  CLI::App& compiling = *app.add_subcommand("compile", "Write filters for mayfly-vmm --seccomp-filter");
  CLI::App& embedding = *app.add_subcommand("embed", "Write filters as a source of C++, for the build");
  CLI::App& auditing = *app.add_subcommand(
      "audit",
      "Say which rules nothing used and which calls nothing allows, from a trace of raw_syscalls:sys_enter");
  for (CLI::App* const command : {&compiling, &embedding}) {
    command->add_option("-o,--output", options.output, "The file to write")->required()->type_name("FILE");
    command
        ->add_option("--otherwise", options.otherwise,
                     "What becomes of other calls: trap (a line in the log, and the process ends), kill, or "
                     "log (it is "
                     "done, and the kernel's log says so) [trap]")
        ->transform(CLI::CheckedTransformer(actions));
  }
  add_policies(compiling, options);
  embedding.add_flag("--none", options.none, "No filters, only the names of the system calls");
  embedding.add_option("POLICY", options.policies, "As compile has them")->expected(0, 3);
  auditing.add_option("--trace", options.trace, "The trace, - for standard input")
      ->required()
      ->type_name("FILE");
  add_policies(auditing, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    fmt::print(stderr, "mayfly-filter: {}; see mayfly-filter --help\n", error.what());
    return 2;
  }
  Result<bool> done = true;
  if (compiling.parsed() || embedding.parsed()) {
    if (auto written = compiling.parsed() ? compile_to_file(options) : embed(options); !written) {
      done = std::unexpected(written.error());
    }
  } else {
    done = audit_trace(options);
  }
  if (done) return *done ? 0 : 1;
  fmt::print(stderr, "mayfly-filter: {}\n", done.error().message);
  return 1;
}
