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
        sigset_t waited_for;
        sigemptyset(&waited_for);
        sigaddset(&waited_for, SIGCHLD);
        sigaddset(&waited_for, SIGIO);
        sigprocmask(SIG_BLOCK, &waited_for, nullptr);
        signal(SIGPIPE, SIG_IGN);
        lab::Session(slot).run();
    }
    return pid;
}

}  // namespace

int main() {
    lab::boot();
    std::vector<pid_t> workers(static_cast<std::size_t>(std::atoi(lab::boot_option("lab.slots").c_str())));
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
