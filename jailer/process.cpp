#include "jailer/process.h"

#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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
constexpr char kExecute = '\0';

void send(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // the other end is gone, and nobody else asks
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

Status Report::about_to_execute() const {
  if (!fd_.valid()) return {};
  char said = 0;
  ssize_t n = -1;
  do {
    n = ::read(fd_.get(), &said, 1);
  } while (n < 0 && errno == EINTR);
  if (n != 1) return fail("the jailer is gone");
  send(fd_.get(), std::string_view(&kAboutToExecute, 1));
  return {};
}

void Report::failed(const base::Error& error) const {
  send(fd_.get(), error.message);
}

Result<Child> start_child(bool new_pid_ns, int cgroup, const std::function<void(const Report&)>& work) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) < 0)
    return fail_errno(errno, "create a pair of sockets");
  Child child{.pid = -1, .report = UniqueFd(ends[0])};
  UniqueFd childs_end(ends[1]);

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
    work(Report(std::move(childs_end)));
    ::_exit(1);
  }
  child.pid = static_cast<pid_t>(pid);
  return child;
}

void stop(const Child& child) {
  ::kill(child.pid, SIGKILL);
  ::waitpid(child.pid, nullptr, 0);
}

void allow_to_execute(const Child& child) {
  send(child.report.get(), std::string_view(&kExecute, 1));
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
