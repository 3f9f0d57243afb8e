#include "jailer/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string_view>

namespace mayfly::jailer {

using base::fail;
using base::fail_because;
using base::Result;
using base::Status;

namespace {

constexpr std::uint64_t kHighestFd = 1U << 20U;

constexpr const char* kFooter = R"(
The jail is BASE/NAME/ID/root, where NAME is the last component of --exec-file. The folder may be there already, with the
files that the virtual machine needs; paths in the VMM's arguments and configuration are seen from it. The VMM is run as
  NAME --id ID --start-time-us … --start-time-cpu-us … --parent-cpu-time-us … VMM-ARGUMENTS

  mayfly-jailer --id vm1 --exec-file /usr/bin/mayfly-vmm --uid 1000 --gid 1000 -- --api-sock /run/api.sock
  mayfly-jailer --id vm1 --exec-file /usr/bin/mayfly-vmm --uid 1000 --gid 1000 --new-pid-ns --daemonize \
                --cgroup memory.max=300M --netns /run/netns/vm1 -- --config-file vm.json --no-api
  mayfly-jailer --id vm1 --exec-file ~/bin/mayfly-vmm --chroot-base-dir ~/jails --userns -- --api-sock /run/api.sock
  mayfly-jailer --cleanup vm1

Exit status: the VMM's own; 1 when the jail could not be made, and then nothing of it is left; 2 for a wrong command line.
)";

// What CLI11 gives as words.
struct Words {
  std::string uid, gid, cgroup_version, oom_score_adj;
  std::vector<std::string> cgroups, limits, pass_fds;
};

void add_options(CLI::App& app, Options& options, Words& words) {
  app.add_option("--id", options.id, "Names the jail and the instance: 1-64 letters, digits and -")
      ->type_name("ID");
  app.add_option("--exec-file", options.exec_file,
                 "The VMM: a static executable, which is copied into the jail")
      ->type_name("FILE");
  app.add_option("--uid", words.uid, "The user, by number, that the VMM runs as [--userns: yourself]")
      ->type_name("UID");
  app.add_option("--gid", words.gid, "The group, by number, that the VMM runs as [--userns: yours]")
      ->type_name("GID");
  app.add_option("--chroot-base-dir", options.base, "The folder of all jails")
      ->type_name("BASE")
      ->capture_default_str();
  app.add_option("--netns", options.netns, "Join this network namespace")->type_name("PATH");
  app.add_flag("--daemonize", options.daemonize,
               "A session of its own, and /dev/null for stdin, stdout, stderr. Where the jailer leads a "
               "process group, its child becomes "
               "the VMM, as with --new-pid-ns");
  app.add_flag(
      "--new-pid-ns", options.new_pid_ns,
      "Run the VMM as the only process of a new PID namespace; its pid is in NAME.pid in the jail, and the "
      "jailer ends once it runs");
  app.add_option("--cgroup", words.cgroups,
                 "Write VALUE into FILE of the cgroup PARENT/ID, and join it (repeatable)")
      ->type_name("FILE=VALUE")
      ->allow_extra_args(false);
  app.add_option("--cgroup-version", words.cgroup_version, "1 or 2 [whichever has what is asked for]")
      ->type_name("1|2");
  app.add_option("--parent-cgroup", options.parent_cgroup,
                 "The cgroup's parent [NAME]; with version 2 and without --cgroup, the one to join")
      ->type_name("PARENT");
  app.add_option("--resource-limit", words.limits,
                 "fsize=BYTES or no-file=NUMBER [no-file=2048] (repeatable)")
      ->type_name("NAME=N")
      ->allow_extra_args(false);
}

void add_own_options(CLI::App& app, Options& options, Words& words) {
  app.add_option("--pass-fd", words.pass_fds,
                 "Leave this descriptor open in the VMM, which uses it where it is given the path /dev/fd/N "
                 "(repeatable)")
      ->type_name("N")
      ->allow_extra_args(false);
  app.add_option("--oom-score-adj", words.oom_score_adj,
                 "-1000 to 1000: how early the kernel ends the VMM when memory is out [the caller's, but not "
                 "below 0]")
      ->type_name("N");
  app.add_flag("--userns", options.userns, "Make the jail in a user namespace, which takes no root");
  app.add_flag("--no-landlock", options.no_landlock, "Do not restrict file access by Landlock rules");
  app.add_option("--cleanup", options.cleanup_id,
                 "Remove the jail of this ID, of which nothing may run any more, and its cgroups")
      ->type_name("ID");
}

template <typename T, typename Parse>
Result<T> value_of(const char* flag, const std::string& word, Parse parse) {
  auto value = parse(word);
  if (!value) return fail_because(std::move(value).error(), "{}", flag);
  return static_cast<T>(*value);
}

Status read_users(Options& options, const Words& words) {
  if (options.userns) {
    options.uid = ::geteuid();
    options.gid = ::getegid();
  }
  if (words.uid.empty() && !options.userns) return fail("--uid is needed: the user that the VMM runs as");
  if (words.gid.empty() && !options.userns) return fail("--gid is needed: the group that the VMM runs as");
  if (!words.uid.empty()) options.uid = TRY(value_of<std::uint32_t>("--uid", words.uid, parse_user));
  if (!words.gid.empty()) options.gid = TRY(value_of<std::uint32_t>("--gid", words.gid, parse_user));
  return {};
}

Result<int> parse_oom_score_adj(std::string_view word) {
  const bool negative = word.starts_with('-');
  const auto size = static_cast<int>(TRY(parse_number(word.substr(negative ? 1 : 0), 0, 1000)));
  return negative ? -size : size;
}

Status read_words(Options& options, const Words& words) {
  TRY(read_users(options, words));
  for (const std::string& word : words.cgroups) options.cgroups.push_back(TRY(parse_cgroup_setting(word)));
  for (const std::string& word : words.limits) options.limits.push_back(TRY(parse_resource_limit(word)));
  for (const std::string& word : words.pass_fds) {
    const auto fd =
        TRY(value_of<int>("--pass-fd", word, [](auto& text) { return parse_number(text, 3, kHighestFd); }));
    options.pass_fds.push_back(fd);
  }
  std::ranges::sort(options.pass_fds);
  const auto repeated = std::ranges::unique(options.pass_fds);
  options.pass_fds.erase(repeated.begin(), repeated.end());
  if (!words.cgroup_version.empty()) {
    options.cgroup_version = TRY(value_of<int>("--cgroup-version", words.cgroup_version,
                                               [](auto& text) { return parse_number(text, 1, 2); }));
  }
  if (!words.oom_score_adj.empty()) {
    options.oom_score_adj = TRY(value_of<int>("--oom-score-adj", words.oom_score_adj, parse_oom_score_adj));
  }
  return {};
}

Status check_cleanup(Options& options) {
  if (auto bad = check_id(options.cleanup_id); !bad) return fail_because(std::move(bad).error(), "--cleanup");
  if (!options.id.empty() || !options.vmm_arguments.empty()) {
    return fail("--cleanup removes a jail: it takes neither --id nor arguments of a VMM");
  }
  if (!options.exec_file.empty()) options.exec_name = TRY(executable_name(options.exec_file));
  return {};
}

Status check(Options& options, const Words& words) {
  if (auto bad = check_plain_path(options.base); !bad) {
    return fail_because(std::move(bad).error(), "--chroot-base-dir");
  }
  if (!options.cleanup_id.empty()) return check_cleanup(options);
  if (options.id.empty()) return fail("--id is needed: it names the jail");
  TRY(check_id(options.id));
  if (options.exec_file.empty()) return fail("--exec-file is needed: the VMM to run in the jail");
  options.exec_name = TRY(executable_name(options.exec_file));
  if (!options.parent_cgroup.empty()) TRY(check_parent_cgroup(options.parent_cgroup));
  return read_words(options, words);
}

}  // namespace

Result<std::optional<Answer>> parse_command_line(int argc, const char* const* argv, Options& options) {
  // What follows the first "--" is the VMM's, whatever it looks like.
  const auto* const end = argv + argc;
  const auto* const dashes = std::find(argv, end, std::string_view("--"));
  if (dashes != end) options.vmm_arguments.assign(dashes + 1, end);

  CLI::App app{
      "Makes a jail around a VMM: its own files, devices, cgroup, limits and no privileges; then becomes the "
      "VMM.",
      "mayfly-jailer"};
  app.footer(kFooter);
  app.set_version_flag("--version", "mayfly-jailer v" MAYFLY_VERSION);
  Words words;
  add_options(app, options, words);
  add_own_options(app, options, words);
  try {
    app.parse(static_cast<int>(dashes - argv), argv);
  } catch (const CLI::CallForHelp&) {
    return Answer{app.help()};
  } catch (const CLI::CallForVersion&) {
    return Answer{app.version() + "\n"};
  } catch (const CLI::ParseError& error) {
    return fail("{}", error.what());
  }
  TRY(check(options, words));
  return std::nullopt;
}

}  // namespace mayfly::jailer
