#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <functional>

#include "cli/machine_name.h"
#include "cli/parsing.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;

namespace {

constexpr const char* kRunFooter = R"(
The root file system is not changed unless --writable is given: what the command writes goes to the guest's
memory and is gone at the end. Standard input, output and error are the command's own, so pipes and
redirections work as with any program.

Ctrl-C, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1 and SIGUSR2 reach the command. Three of the first four within two
seconds end the machine at once.

Kernel and root file system are taken from $MAYFLY_ARTIFACTS, or else from artifacts/ of the tree that mayfly
was built in, PREFIX/share/mayfly or /usr/share/mayfly; with several CPUs the kernel is vmlinux-smp.

With --detach mayfly goes on in the background once the command has started, and prints the machine's name. Standard
input is empty then, and `mayfly logs` has what the command writes. The machine ends with its command; without one it
is there for `mayfly exec` until `mayfly stop`.

IMAGE is one that `mayfly image import` has stored, and says what command is run where none is given, as whom, where and
with which environment. A command is put after its entrypoint.

With --net the guest has a network interface and gets to wherever this host gets to by IPv4. As root that is a
tap with address translation by nftables: the guest reaches neither services of this host nor other guests. For
other users passt does it, and the guest reaches what a program of theirs would reach outside of 127.0.0.1. All
of it is undone at the end. --publish lets a port of this host lead to one in the guest.

Exit status: the command's own; 128 + n when signal n killed it; 124 after --timeout; 125 when Mayfly itself
failed; 126 when the command cannot be run; 127 when it is not found.

Examples:
  mayfly run -- uname -a
  mayfly run --cpus 4 --memory 1024 -- sh -c 'nproc; free -m'
  mayfly run -t -- sh                                  a shell
  tar c src | mayfly run -- tar t                      a pipeline
  mayfly run --env LANG=C --workdir /tmp --user 1000 -- id
  mayfly run --timeout 2 -- sleep 60; echo $?          124
  mayfly run --net -- nslookup example.com
  mayfly run --publish 8080:80 -- httpd -f -p 80       at http://localhost:8080
  mayfly run --detach --name web --publish 8080:80 -- httpd -f -p 80
  mayfly run alpine -- cat /etc/os-release             an image that was imported
  mayfly run --timing -- true                          where the milliseconds go
)";

// To CLI11: a flag that may have a value, and the value it has without.
constexpr const char* kTimingFlag = "--timing{table}";
constexpr const char* kNetFlag = "--net{auto}";

constexpr std::string_view kMainHelp =
    R"(Mayfly runs commands in virtual machines of their own, which live for as long as the command does.

Usage: mayfly COMMAND …

  run [IMAGE] -- COMMAND [ARG…]     run a command in a fresh microVM; with --detach, leave it running
  ps                                list the machines that run detached
  exec [-it] NAME -- COMMAND        run a further command in a machine
  logs [-f] NAME                    what a machine's command has written
  console NAME                      a machine's serial console
  cp NAME:PATH PATH                 copy files from a machine; PATH NAME:PATH into one
  stats [--watch] [NAME…]           what machines use
  inspect NAME…                     all that is known of machines
  pause NAME…, resume NAME…         stop the CPUs of machines, and let them run again
  stop NAME…, kill NAME…            end machines: in good order, at once
  wait NAME…                        wait for the end of machines
  image build|import|ls|rm          root file systems: make one, or import a container's image for `run IMAGE`
  drive create|show|flatten         copy-on-write drives: clone an image, look at it, make it whole
  doctor                            what this machine can do, and what to do about what it cannot
  completion bash|zsh|fish          the script for a shell's completion
  version                           the version, as --version does

Examples:
  mayfly run -- uname -a
  mayfly run -t -- sh
  mayfly run --help
)";

// A whole number in [least, most], or an error that names the range.
template <typename T>
std::function<std::string(const std::string&)> range(T least, T most, const char* unit) {
  return [=](const std::string& text) -> std::string {
    T value = 0;
    const char* const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc{} && rest == end && value >= least && value <= most) return {};
    return fmt::format("{} is not a whole number of {} from {} to {}", text, unit, least, most);
  };
}

Result<NetworkMode> parse_network_mode(const std::string& text) {
  if (text == "auto") return NetworkMode::kAuto;
  if (text == "tap") return NetworkMode::kTap;
  if (text == "passt") return NetworkMode::kPasst;
  return fail("--net: {} is not auto, tap or passt", text);
}

Status parse_network(const std::string& mode, const std::vector<std::string>& publishes,
                     const std::vector<std::string>& nameservers, RunOptions& options) {
  for (const std::string& text : publishes) {
    Publish publish = TRY(parse_publish(text));
    for (const Publish& earlier : options.publishes) {
      if (conflict(earlier, publish))
        return fail("--publish: {} and {} are the same port", earlier.text, text);
    }
    options.publishes.push_back(std::move(publish));
  }
  for (const std::string& text : nameservers) {
    const auto address = parse_ipv4(text);
    if (!address || address->is_loopback() || address->value == 0) {
      return fail("--dns: {} is no IPv4 address that a guest can reach", text);
    }
    options.nameservers.push_back(*address);
  }
  // Neither means anything without.
  const bool wanted = !publishes.empty() || !nameservers.empty();
  if (!mode.empty()) options.network = TRY(parse_network_mode(mode));
  if (mode.empty() && wanted) options.network = NetworkMode::kAuto;
  return {};
}

Status parse_texts(const std::string& timeout, const std::string& boot_timeout, const std::string& timing,
                   RunOptions& options) {
  if (!timeout.empty()) options.timeout = TRY(parse_seconds("--timeout", timeout));
  if (!boot_timeout.empty()) options.boot_timeout = TRY(parse_seconds("--boot-timeout", boot_timeout));
  if (timing == "json") {
    options.timing = TimingReport::kJson;
  } else if (timing == "table") {
    options.timing = TimingReport::kTable;
  } else if (!timing.empty()) {
    return fail("--timing: {} is not json or table", timing);
  }
  return {};
}

// The first word before "--" is an image's name.
Status take_image(RunOptions& options) {
  if (!options.rootfs.empty()) {
    return fail("--rootfs and the image {} exclude each other; a command stands after --",
                options.command.front());
  }
  options.image = std::move(options.command.front());
  options.command.erase(options.command.begin());
  if (!options.command.empty() && options.command.front() == "--")
    options.command.erase(options.command.begin());
  return {};
}

// What needs somebody who waits, or somebody who does not.
Status check_detach(const RunOptions& options) {
  if (!options.detach) {
    if (!options.name.empty()) return fail("--name is for machines that stay: add --detach");
    if (options.command.empty() && options.image.empty())
      return fail("no command given: mayfly run [OPTIONS] -- COMMAND [ARG...]");
    return {};
  }
  if (!options.name.empty()) TRY(check_machine_name(options.name));
  if (options.tty) return fail("--detach and --tty exclude each other: mayfly exec -t gives a terminal");
  if (options.console) return fail("--detach and --console exclude each other: mayfly console shows it");
  if (options.timing != TimingReport::kNone) return fail("--detach and --timing exclude each other");
  return {};
}

}  // namespace

Result<Parsed<RunOptions>> parse_run(std::span<const std::string> words) {
  RunOptions options;
  CLI::App app{"Runs a command in a fresh virtual machine.", "mayfly run"};
  app.footer(kRunFooter);
  CommandTexts texts;
  std::string timeout;
  std::string boot_timeout;
  std::string timing;
  std::string network;
  std::vector<std::string> publishes;
  std::vector<std::string> nameservers;
  bool read_only = false;
  bool writable = false;
  app.add_flag("-d,--detach", options.detach,
               "Leave the machine running and print its name; without a command it waits for mayfly exec");
  app.add_option("--name", options.name, "Its name, with --detach (default: one is made up)")
      ->type_name("NAME");
  app.add_option("--cpus", options.cpus, fmt::format("Virtual CPUs, 1-{} (default 1)", kMostCpus))
      ->type_name("N")
      ->check(range<unsigned>(1, kMostCpus, "CPUs"));
  app.add_option(
         "--memory", options.memory_mib,
         fmt::format("Memory in MiB, {}-{} (default {})", kLeastMemoryMib, kMostMemoryMib, kDefaultMemoryMib))
      ->type_name("MIB")
      ->check(range<std::uint64_t>(kLeastMemoryMib, kMostMemoryMib, "MiB"));
  app.add_option("--kernel", options.kernel, "Guest kernel: vmlinux or bzImage")->type_name("FILE");
  app.add_option("--rootfs", options.rootfs, "Root file system image, as `mayfly image build` makes them")
      ->type_name("FILE");
  app.add_flag("--read-only", read_only, "Refuse writes to the root file system");
  app.add_flag("--writable", writable, "Write to the image itself");
  add_command_options(app, options, texts);
  app.add_flag(kNetFlag, network,
               "A network: --net=tap takes root, --net=passt the program passt; else whichever fits");
  app.add_option("-p,--publish", publishes,
                 "Let a port of this host lead to one in the guest. May be given again")
      ->type_name("[ADDRESS:]HOST:GUEST[/udp]")
      ->allow_extra_args(false);
  app.add_option("--dns", nameservers, "Name server for the guest (default: this host's). May be given again")
      ->type_name("ADDRESS")
      ->allow_extra_args(false);
  app.add_flag("--no-jail", options.no_jail,
               "Run the virtual machine monitor as yourself, without mayfly-jailer");
  app.add_option("--timeout", timeout, "End the command after S seconds of the whole run: SIGTERM first")
      ->type_name("S");
  app.add_option("--boot-timeout", boot_timeout,
                 fmt::format("Give up on a guest that is not up after S seconds (default {})",
                             kDefaultBootTimeout.count()))
      ->type_name("S");
  app.add_flag("--console", options.console, "Show the guest's serial console on standard error");
  app.add_flag(kTimingFlag, timing, "Print when each phase was reached; --timing=json for programs");
  app.add_flag("-t,--tty", options.tty, "Give the command a terminal, shown in ours");

  SplitWords split = TRY(parse_before_command(app, words, "run"));
  if (!split.help.empty()) {
    replace_first(split.help, "mayfly run [OPTIONS]", "mayfly run [OPTIONS] [IMAGE] [-- COMMAND [ARG...]]");
    replace_first(split.help, kTimingFlag, "--timing[=json]");
    replace_first(split.help, kNetFlag, "--net[=tap|passt]");
    return Parsed<RunOptions>{std::nullopt, split.help};
  }
  if (read_only && writable) return fail("--read-only and --writable exclude each other");
  options.command = std::move(split.command);
  if (!options.command.empty() && !split.separated) TRY(take_image(options));
  if (!options.command.empty() && options.command.front().empty())
    return fail("the command is an empty word");
  options.root_mode = read_only ? RootMode::kReadOnly : writable ? RootMode::kWritable : RootMode::kScratch;
  TRY(take_command_texts(texts, options));
  options.user_given = !texts.user.empty();
  TRY(parse_texts(timeout, boot_timeout, timing, options));
  TRY(parse_network(network, publishes, nameservers, options));
  TRY(check_detach(options));
  return Parsed<RunOptions>{std::move(options), {}};
}

Result<Parsed<DoctorOptions>> parse_doctor(std::span<const std::string> words) {
  DoctorOptions options;
  CLI::App app{"Says what this machine can do, and what to do about what it cannot.", "mayfly doctor"};
  app.footer(
      "\nExit status: 0 when Linux guests can run here, 1 when they cannot, 125 on a wrong command line.");
  app.add_flag("--json", options.json, "One JSON object");
  app.add_flag("--quiet", options.quiet, "Print nothing: the exit status says it");
  const std::string help = TRY(parse_with(app, std::vector(words.rbegin(), words.rend()), "doctor"));
  if (!help.empty()) return Parsed<DoctorOptions>{std::nullopt, help};
  return Parsed<DoctorOptions>{options, {}};
}

std::string_view main_help() {
  return kMainHelp;
}

}  // namespace mayfly::cli
