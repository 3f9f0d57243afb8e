// The VMM as a child of the jailer, which waits until it has become one.
#pragma once

#include <sys/types.h>

#include <functional>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::jailer {

// What a child tells its jailer. The descriptor closes at execve(2).
class Report {
 public:
  explicit Report(base::UniqueFd fd) : fd_(std::move(fd)) {}
  // Waits for allow_to_execute, where there is a jailer to ask. Whatever ends the process from here on, it is
  // the VMM. Fails when the jailer is gone.
  [[nodiscard]] base::Status about_to_execute() const;
  void failed(const base::Error& error) const;

 private:
  base::UniqueFd fd_;
};

// The signal that the jailer gets when whoever started it ends (PR_SET_PDEATHSIG), which a change of users
// clears.
struct DeathSignal {
  int signal = 0;  // none
  pid_t parent = -1;
};
DeathSignal parent_death_signal();
// Fails when the parent has ended meanwhile.
base::Status renew(const DeathSignal& death_signal);

struct Child {
  pid_t pid = -1;
  base::UniqueFd report;  // the other end of its Report: a socket
};

// Runs `work` in a child, in a new PID namespace if `new_pid_ns`, and in the cgroup of version 2 that
// `cgroup` is the folder of (-1: in the caller's). `work` does not come back; its errors go into its report.
base::Result<Child> start_child(bool new_pid_ns, int cgroup, const std::function<void(const Report&)>& work);

// Ends it, and waits for that: its end empties the cgroups, which can be removed then.
void stop(const Child& child);

// What is to be there before the VMM runs is there.
void allow_to_execute(const Child& child);

// Waits until the child has executed the VMM. The error is the child's own; the child is gone then.
base::Status wait_until_executed(const Child& child);

}  // namespace mayfly::jailer
