// The lab's first process: makes the emulated host, then runs one worker a slot and reaps what they leave.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "boot.h"
#include "session.h"

namespace {

pid_t start_worker(int slot) {
  const pid_t pid = fork();
  if (pid == 0) {
    signal(SIGPIPE, SIG_IGN);
    lab::Session(slot).run();
  }
  return pid;
}

// The workers wait for these two; nothing is to be done when they come.
void block_signals() {
  sigset_t waited_for;
  sigemptyset(&waited_for);
  sigaddset(&waited_for, SIGCHLD);
  sigaddset(&waited_for, SIGIO);
  sigprocmask(SIG_BLOCK, &waited_for, nullptr);
}

}  // namespace

int main() {
  block_signals();
  lab::boot_machine();
  const lab::Configuration configuration = lab::receive_configuration();
  lab::enter_outside(configuration);
  std::vector<pid_t> workers(static_cast<std::size_t>(configuration.slots));
  for (std::size_t i = 0; i < workers.size(); ++i) {
    workers[i] = start_worker(static_cast<int>(i) + 1);
  }
  for (;;) {
    const pid_t ended = wait(nullptr);
    for (std::size_t i = 0; i < workers.size(); ++i) {
      if (workers[i] == ended) {
        workers[i] = start_worker(static_cast<int>(i) + 1);
      }
    }
  }
}
