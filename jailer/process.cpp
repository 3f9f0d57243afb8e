#include "jailer/process.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <string>

namespace mayfly::jailer {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr char kAboutToExecute = '\0';

void send(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // the jailer is gone, and nobody else asks
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

}  // namespace

DeathSignal parent_death_signal() {
  DeathSignal found{.parent = ::getppid()};
  ::prctl(PR_GET_PDEATHSIG, &found.signal);
  return found;
}

Status renew(const DeathSignal& death_signal) {
  if (death_signal.signal == 0) return {};
  if (::prctl(PR_SET_PDEATHSIG, death_signal.signal) < 0) return fail_errno(errno, "follow the caller's end");
  if (::getppid() != death_signal.parent) return fail("whoever started the jailer has ended");
  return {};
}

void Report::about_to_execute() const {
  if (fd_.valid()) send(fd_.get(), std::string_view(&kAboutToExecute, 1));
}

void Report::failed(const base::Error& error) const {
  send(fd_.get(), error.message);
}

Result<Child> start_child(bool new_pid_ns, int cgroup, const std::function<void(const Report&)>& work) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  Child child{.pid = -1, .report = UniqueFd(ends[0])};
  UniqueFd write_end(ends[1]);

  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  if (new_pid_ns) arguments.flags |= CLONE_NEWPID;
  if (cgroup >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<unsigned>(cgroup);
  }
  const long pid = ::syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid < 0)
    return fail_errno(errno, "start a process{} (clone3)", new_pid_ns ? " in a new PID namespace" : "");
  if (pid == 0) {
    child.report.reset();
    work(Report(std::move(write_end)));
    ::_exit(1);
  }
  child.pid = static_cast<pid_t>(pid);
  return child;
}

void stop(const Child& child) {
  ::kill(child.pid, SIGKILL);
  ::waitpid(child.pid, nullptr, 0);
}

Status wait_until_executed(const Child& child) {
  std::string said;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = ::read(child.report.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    said.append(buffer.data(), static_cast<std::size_t>(n));
  }
  const bool tried = said.starts_with(kAboutToExecute);
  if (tried) said.erase(0, 1);
  if (tried && said.empty()) return {};
  stop(child);
  if (said.empty()) return fail("the jailer's child was killed before it became the VMM");
  return fail("{}", said);
}

}  // namespace mayfly::jailer
