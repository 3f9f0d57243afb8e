#include "rootfs/init/command.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/agent_protocol.h"
#include "rootfs/init/terminal.h"
#include "rootfs/init/text.h"
#include "rootfs/init/users.h"

namespace mayfly::init {
namespace {

constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// Where between fork and exec a command failed.
enum class Step : std::uint32_t { kTerminal, kUser, kDirectory, kExecute, kInterpreter };

struct Failure {
  Step step;
  int error;
};

// All a child needs, so that it does nothing but system calls: with vfork it runs in our memory.
struct Plan {
  int input = -1;
  int output = -1;
  int errors = -1;
  int report = -1;  // where a Failure is written; closed by a successful exec
  bool tty = false;
  bool change_user = false;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  const gid_t* groups = nullptr;
  std::size_t group_count = 0;
  const char* directory = nullptr;
  const char* path = nullptr;  // the value of PATH
  char** arguments = nullptr;  // with one spare entry before the first
  char** environment = nullptr;
  char* file = nullptr;  // kLongestPath bytes, for the names tried
};

constexpr std::size_t kLongestPath = PATH_MAX;

[[noreturn]] void give_up(const Plan& plan, Step step, int error) {
  const Failure failure{step, error};
  [[maybe_unused]] const ssize_t written = ::write(plan.report, &failure, sizeof(failure));
  ::_exit(127);
}

// Executes one file; returns the error. A file without a known format is given to the shell, as execvp does.
int execute_file(const Plan& plan, const char* file) {
  ::execve(file, plan.arguments, plan.environment);
  if (errno != ENOEXEC) return errno;
  static char shell[] = "/bin/sh";
  char* const name = plan.arguments[0];
  plan.arguments[-1] = shell;
  plan.arguments[0] = const_cast<char*>(file);
  ::execve(shell, plan.arguments - 1, plan.environment);
  plan.arguments[0] = name;
  return ENOEXEC;
}

// ENOENT for a file that is there means its interpreter or loader is not.
[[noreturn]] void give_up_on_file(const Plan& plan, const char* file, int error) {
  const bool there = error == ENOENT && ::access(file, F_OK) == 0;
  give_up(plan, there ? Step::kInterpreter : Step::kExecute, error);
}

// The search of execvp(3), with the PATH of the command's own environment.
[[noreturn]] void execute(const Plan& plan) {
  const std::string_view name = plan.arguments[0];
  if (name.empty()) give_up(plan, Step::kExecute, ENOENT);
  if (name.find('/') != std::string_view::npos) {
    give_up_on_file(plan, plan.arguments[0], execute_file(plan, plan.arguments[0]));
  }
  int worst = ENOENT;
  std::string_view rest = plan.path;
  for (bool last = false; !last;) {
    const std::size_t colon = rest.find(':');
    last = colon == std::string_view::npos;
    std::string_view folder = rest.substr(0, colon);
    if (!last) rest.remove_prefix(colon + 1);
    if (folder.empty()) folder = ".";
    if (folder.size() + 1 + name.size() >= kLongestPath) continue;
    std::memcpy(plan.file, folder.data(), folder.size());
    plan.file[folder.size()] = '/';
    std::memcpy(plan.file + folder.size() + 1, name.data(), name.size());
    plan.file[folder.size() + 1 + name.size()] = '\0';
    const int error = execute_file(plan, plan.file);
    if (error == ENOENT && ::access(plan.file, F_OK) == 0) give_up(plan, Step::kInterpreter, error);
    if (error == EACCES) worst = EACCES;
    if (error != ENOENT && error != ENOTDIR && error != EACCES) give_up(plan, Step::kExecute, error);
  }
  give_up(plan, Step::kExecute, worst);
}

// The system calls themselves: a C library's wrappers would tell the other threads of what, after vfork, is
// still our process.
bool become_user(const Plan& plan) {
  return ::syscall(SYS_setgroups, plan.group_count, plan.groups) == 0 &&
         ::syscall(SYS_setresgid, plan.gid, plan.gid, plan.gid) == 0 &&
         ::syscall(SYS_setresuid, plan.uid, plan.uid, plan.uid) == 0;
}

[[noreturn]] void run_child(const Plan& plan) {
  ::setsid();
  ::dup2(plan.input, STDIN_FILENO);
  ::dup2(plan.output, STDOUT_FILENO);
  ::dup2(plan.errors, STDERR_FILENO);
  if (plan.tty && ::ioctl(STDIN_FILENO, TIOCSCTTY, 0) != 0) give_up(plan, Step::kTerminal, errno);
  if (plan.change_user && !become_user(plan)) give_up(plan, Step::kUser, errno);
  if (::chdir(plan.directory) != 0) give_up(plan, Step::kDirectory, errno);
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(SIGPIPE, &standard, nullptr);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  execute(plan);
}

// A function of its own, so that nothing of the caller is in registers that vfork's two returns would share.
[[gnu::noinline]] pid_t fork_child(const Plan& plan) {
  // NOLINTNEXTLINE(clang-analyzer-security.insecureAPI.vfork): no page tables to copy; the child only execs.
  const pid_t pid = ::vfork();
  if (pid == 0) run_child(plan);
  return pid;
}

bool open_pipe(base::UniqueFd& reader, base::UniqueFd& writer) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  reader.reset(ends[0]);
  writer.reset(ends[1]);
  return true;
}

bool set_nonblocking(const base::UniqueFd& fd) {
  return ::fcntl(fd.get(), F_SETFL, O_NONBLOCK) == 0;
}

// The command's ends of its standard streams.
struct TheirEnds {
  base::UniqueFd input;
  base::UniqueFd output;
  base::UniqueFd errors;
};

bool open_pipes(Command& ours, TheirEnds& theirs, std::uint32_t uid) {
  if (!open_pipe(theirs.input, ours.input) || !open_pipe(ours.output, theirs.output) ||
      !open_pipe(ours.errors, theirs.errors)) {
    return false;
  }
  // So that a command which is not root's may open /dev/stdout and the like again.
  const int ends[] = {theirs.input.get(), theirs.output.get(), theirs.errors.get()};
  for (const int end : ends) {
    if (uid != 0) [[maybe_unused]]
      const int owned = ::fchown(end, uid, static_cast<gid_t>(-1));
  }
  return set_nonblocking(ours.input) && set_nonblocking(ours.output) && set_nonblocking(ours.errors);
}

bool open_tty(Command& ours, TheirEnds& theirs, const StartRequest& request) {
  Terminal terminal = open_terminal(request.uid, request.rows, request.columns);
  if (!terminal.slave.valid()) return false;
  ours.input.reset(::fcntl(terminal.master.get(), F_DUPFD_CLOEXEC, 0));
  ours.output = std::move(terminal.master);
  theirs.output.reset(::fcntl(terminal.slave.get(), F_DUPFD_CLOEXEC, 0));
  theirs.errors.reset(::fcntl(terminal.slave.get(), F_DUPFD_CLOEXEC, 0));
  theirs.input = std::move(terminal.slave);
  return ours.input.valid() && theirs.output.valid() && theirs.errors.valid();
}

CommandFailure failure(std::uint32_t status, std::string_view what, const char* name, std::string_view why) {
  CommandFailure out;
  out.exit_status = status;
  join_text(out.message, {what, name, why.empty() ? "" : ": ", why});
  return out;
}

CommandFailure describe(const Failure& failed, const StartRequest& request) {
  const char* const name = request.arguments[0];
  const std::string_view why = ::strerror(failed.error);
  switch (failed.step) {
    case Step::kTerminal:
      return failure(125, "cannot give a terminal to ", name, why);
    case Step::kUser:
      return failure(125, "cannot change the user for ", name, why);
    case Step::kDirectory:
      return failure(125, "cannot change to the folder ", request.directory, why);
    case Step::kInterpreter:
      return failure(126, "cannot run ", name, "its interpreter or loader is missing");
    case Step::kExecute:
      break;
  }
  if (failed.error == ENOENT || failed.error == ENOTDIR) return failure(127, "command not found: ", name, "");
  return failure(126, "cannot run ", name, why);
}

// Room for the variables that are added to the command's environment.
struct Defaults {
  std::array<char, sizeof(User::home) + 8> home{};
  char path[sizeof("PATH=") + 80] = "";
  char term[sizeof("TERM=xterm")] = "TERM=xterm";
};

void add_defaults(StartRequest& request, Defaults& defaults, const User& user) {
  char** next = request.environment + request.environment_count;
  join_text(defaults.home, {"HOME=", user.home.data()});
  join_text(defaults.path, {"PATH=", kDefaultPath});
  const bool has_path = request.variable("PATH") != nullptr;
  const bool has_home = request.variable("HOME") != nullptr;
  const bool has_term = request.variable("TERM") != nullptr;
  if (!has_path) *next++ = defaults.path;
  if (!has_home) *next++ = defaults.home.data();
  if (request.tty && !has_term) *next++ = defaults.term;
}

}  // namespace

std::optional<CommandFailure> start_command(StartRequest& request, Command& command) {
  const auto lacking = [&](std::string_view what) {
    return failure(125, what, request.arguments[0], ::strerror(errno));
  };
  const User user = find_user(request.uid);
  const gid_t gid = request.gid == base::agent::kGroupOfUser ? user.gid : request.gid;
  Defaults defaults;
  add_defaults(request, defaults, user);

  TheirEnds theirs;
  base::UniqueFd report;
  base::UniqueFd reporter;
  if (!open_pipe(report, reporter)) return lacking("cannot make a pipe for ");
  if (request.tty ? !open_tty(command, theirs, request) : !open_pipes(command, theirs, request.uid)) {
    return lacking(request.tty ? "cannot make a terminal for " : "cannot make pipes for ");
  }
  Buffer file = Buffer::allocate(kLongestPath);
  if (!file.valid()) return lacking("no memory for ");
  const char* const path = request.variable("PATH");
  const Plan plan{
      .input = theirs.input.get(),
      .output = theirs.output.get(),
      .errors = theirs.errors.get(),
      .report = reporter.get(),
      .tty = request.tty,
      .change_user = request.uid != ::getuid() || gid != ::getgid() || user.group_count > 0,
      .uid = request.uid,
      .gid = gid,
      .groups = user.groups.data(),
      .group_count = user.group_count,
      .directory = request.directory,
      .path = path != nullptr ? path : kDefaultPath,
      .arguments = request.arguments,
      .environment = request.environment,
      .file = file.bytes().data(),
  };
  command.pid = fork_child(plan);
  if (command.pid < 0) return lacking("cannot make a process for ");
  reporter.reset();
  Failure failed{};
  if (::read(report.get(), &failed, sizeof(failed)) == sizeof(failed)) {
    return describe(failed, request);
  }
  return std::nullopt;
}

}  // namespace mayfly::init
