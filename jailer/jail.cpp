#include "jailer/jail.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "jailer/cgroup.h"
#include "jailer/enter.h"
#include "jailer/folder.h"
#include "jailer/landlock.h"
#include "jailer/privileges.h"
#include "jailer/process.h"
#include "jailer/undo.h"
#include "jailer/userns.h"

namespace mayfly::jailer {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

std::uint64_t microseconds(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec) / 1000U;
}

// What the process that becomes the VMM needs of what was made before.
struct Jail {
  const Options& options;
  const Folder& folder;
  const Cgroups& cgroups;
  mode_t umask;
  StartTimes start;
  DeathSignal death_signal;
  std::uint64_t parent_cpu_us = 0;
  bool child = false;
};

std::vector<std::string> arguments_of(const Jail& jail) {
  const Options& options = jail.options;
  std::vector<std::string> arguments = {options.exec_name,
                                        "--id",
                                        options.id,
                                        "--start-time-us",
                                        std::to_string(jail.start.wall_us),
                                        "--start-time-cpu-us",
                                        std::to_string(jail.start.cpu_us),
                                        "--parent-cpu-time-us",
                                        std::to_string(jail.parent_cpu_us)};
  arguments.insert(arguments.end(), options.vmm_arguments.begin(), options.vmm_arguments.end());
  return arguments;
}

// execve(2) of the copy by its descriptor, which leads past the jail's noexec mount, with an empty
// environment. Comes back with an error only.
Status execute(const Jail& jail, int null, const Report& report) {
  std::vector<std::string> arguments = arguments_of(jail);
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::array<char*, 1> environment{};

  const UniqueFd error_before(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (null >= 0) {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      if (::dup2(null, fd) < 0) return fail_errno(errno, "put /dev/null in the place of descriptor {}", fd);
    }
  }
  // The caller's mask, but never more for others than the owner and group.
  ::umask(jail.umask | S_IRWXO);
  TRY(set_limits(jail.options));
  TRY(set_capabilities(Capabilities::kWait));
  TRY(report.about_to_execute());
  ::execveat(jail.folder.executable(), "", argv.data(), environment.data(), AT_EMPTY_PATH);
  const int code = errno;
  TRY(set_capabilities(Capabilities::kCount));  // for what is to be undone
  if (null >= 0 && error_before.valid()) ::dup2(error_before.get(), STDERR_FILENO);
  return fail_errno(code, "execute {}/{}", jail.folder.path(), jail.options.exec_name);
}

// From here on, each step takes something away. Comes back with an error only.
Status become_vmm(const Jail& jail, Undo& undo, const Report& report) {
  const Options& options = jail.options;
  UniqueFd null;
  if (options.daemonize) {
    null = TRY(base::open_file("/dev/null", O_RDWR));
    // A session of its own: no terminal's Ctrl-C or hang-up reaches it.
    if (::setsid() < 0) return fail_errno(errno, "start a session (setsid)");
  }
  // Joined before its memory is allocated, which then counts.
  TRY(jail.cgroups.join(jail.child, undo));
  if (options.userns) {
    TRY(enter_root_in_namespace(jail.folder, options));
  } else {
    // No System V shared memory or message queue of the host's, or of another jail with the same user.
    if (::unshare(CLONE_NEWIPC) < 0) return fail_errno(errno, "make a new IPC namespace (unshare)");
    TRY(enter_root(jail.folder.root()));
  }
  TRY(drop_privileges(options));
  if (!jail.child) TRY(renew(jail.death_signal));
  if (const int abi = options.no_landlock ? 0 : landlock_abi(); abi > 0) {
    // What is in memory alone Landlock does not ask about.
    const int executable = jail.folder.executable_in_memory() ? -1 : jail.folder.executable();
    TRY(restrict_by_landlock(abi, {.executable = executable, .removal = undo.folders()}));
  }
  return execute(jail, null.get(), report);
}

// For --cleanup: the cgroups of this jail, a line each, where nothing in the jail can reach it.
Status note_cgroups(const Options& options, const Folder& folder, const Cgroups& cgroups, Undo& undo) {
  if (cgroups.own().empty()) return {};
  const UniqueFd file = TRY(folder.make_file(folder.own(), "cgroups", 0600, options, undo));
  for (const std::string& path : cgroups.own()) TRY(base::write_all(file.get(), path + "\n"));
  return {};
}

Status run_as_child(Jail jail, Undo& undo) {
  const Options& options = jail.options;
  const UniqueFd pid_file =
      TRY(jail.folder.make_file(jail.folder.root(), options.exec_name + ".pid", 0644, options, undo));
  jail.parent_cpu_us = microseconds(CLOCK_PROCESS_CPUTIME_ID) - jail.start.cpu_us;
  jail.start.cpu_us = 0;
  jail.child = true;
  const Child child =
      TRY(start_child(options.new_pid_ns, jail.cgroups.clone_into(), [&](const Report& report) {
        Undo none;  // the jailer undoes what it made once this process is gone
        const Status failed = become_vmm(jail, none, report);
        report.failed(failed.error());
      }));
  if (auto written = base::write_all(pid_file.get(), std::to_string(child.pid) + "\n"); !written) {
    stop(child);
    return base::fail_because(std::move(written).error(), "the file of the VMM's pid");
  }
  // Whoever hears of the VMM finds its pid.
  allow_to_execute(child);
  TRY(wait_until_executed(child));
  undo.keep();
  return {};
}

}  // namespace

StartTimes times_now() {
  return {microseconds(CLOCK_MONOTONIC), microseconds(CLOCK_PROCESS_CPUTIME_ID)};
}

Status make_jail(const Options& options, const StartTimes& start) {
  if (options.userns && ::geteuid() == 0)
    return base::fail("--userns is for users: root's own jail is the stronger one");
  if (!options.userns && ::geteuid() != 0) return base::fail("making a jail takes root, or --userns");
  const DeathSignal death_signal = parent_death_signal();
  Undo undo;
  const mode_t caller_mask = ::umask(0);  // modes below are what they say
  // What can be looked at is looked at before anything is made.
  const UniqueFd source = TRY(open_executable(options.exec_file));
  UniqueFd network;
  if (!options.netns.empty()) network = TRY(open_network_namespace(options.netns.c_str()));

  TRY(set_oom_score(options));
  if (options.userns) TRY(enter_user_namespace(options));
  Folder folder = TRY(Folder::create(options, undo));
  TRY(folder.copy_executable(source.get(), options, undo));
  TRY(folder.make_devices(options, options.userns ? Folder::Nodes::kPlaces : Folder::Nodes::kDevices, undo));
  TRY(folder.make_run_folder(options, undo));
  const Cgroups cgroups = TRY(Cgroups::create(options, undo));
  TRY(note_cgroups(options, folder, cgroups, undo));
  if (network.valid()) TRY(join_network_namespace(network.get(), options.netns.c_str()));

  Jail jail{.options = options,
            .folder = folder,
            .cgroups = cgroups,
            .umask = caller_mask,
            .start = start,
            .death_signal = death_signal};
  // The leader of a process group cannot start a session (setsid(2)); its child can.
  if (options.new_pid_ns || (options.daemonize && ::getpgrp() == ::getpid())) {
    return run_as_child(std::move(jail), undo);
  }
  return become_vmm(jail, undo, Report(UniqueFd()));
}

}  // namespace mayfly::jailer
