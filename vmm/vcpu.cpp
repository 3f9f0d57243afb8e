#include "vmm/vcpu.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <system_error>
#include <utility>

#include "base/thread_name.h"
#include "base/timeline.h"

namespace mayfly::vmm {

namespace {

// The signal that makes KVM_RUN return. Its handler does nothing: being interrupted is all it is for.
int kick_signal() {
  return SIGRTMIN;
}

base::Status install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  // No SA_RESTART: the call must not go on.
  if (::sigaction(kick_signal(), &action, nullptr) < 0) {
    return base::fail_errno(errno, "install the handler of the vCPU signal");
  }
  return {};
}

}  // namespace

base::Result<std::unique_ptr<Vcpu>> Vcpu::create(std::uint32_t index, VcpuFd fd, Buses buses, OnEnd on_end,
                                                 Hooks hooks) {
  std::unique_ptr<Vcpu> vcpu(new Vcpu(index, std::move(fd), buses, std::move(on_end), std::move(hooks)));
  TRY(install_kick_handler());
  TRY(vcpu->start_thread());
  return vcpu;
}

Vcpu::~Vcpu() {
  request_stop();
}

base::Status Vcpu::start_thread() {
  // A thread starts with its creator's signal mask: with all blocked, no signal of the process's can land on
  // it even for a moment.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  base::Status status;
  try {
    thread_ = std::jthread([this] { thread_main(); });
  } catch (const std::system_error& error) {
    status = base::fail_errno(error.code().value(), "start the thread of vCPU {}", index_);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return status;
}

// --- The controlling thread

void Vcpu::command(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (command_ == Command::kStop) return;  // for good
    command_ = command;
  }
  changed_.notify_all();
}

void Vcpu::resume() {
  command(Command::kRun);
}

void Vcpu::request_pause() {
  command(Command::kPark);
  kick();
}

void Vcpu::request_stop() {
  command(Command::kStop);
  kick();
}

void Vcpu::request_stop_at_exit() {
  command(Command::kStop);
  fd_.set_immediate_exit(true);
}

// Why no kick is lost: the new command is stored before immediate_exit is set, and the vCPU's thread clears
// immediate_exit before it looks at the command (all sequentially consistent). So either it sees the command,
// or it enters KVM_RUN with immediate_exit set, or it is in KVM_RUN already, where the signal finds it. A
// thread that has not stored its id yet has the look at the command before it.
//
// Not pthread_kill(3), which makes four system calls of which a filter would have to allow three. What that
// is for is no matter here: a thread that has ended since has left its id to nobody, or to another of this
// process, which the signal does nothing to.
void Vcpu::kick() {
  fd_.set_immediate_exit(true);
  const pid_t thread = thread_id_;
  if (thread != 0) ::syscall(SYS_tgkill, process_, thread, kick_signal());
}

void Vcpu::wait_parked() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return parked_; });
}

base::Status Vcpu::wait_confined() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return confined_.has_value(); });
  return *confined_;
}

bool Vcpu::parked() {
  const std::lock_guard lock(mutex_);
  return parked_;
}

// --- The vCPU's thread

void Vcpu::thread_main() {
  base::set_thread_name(fmt::format("vcpu{}", index_));
  sigset_t kick;
  ::sigemptyset(&kick);
  ::sigaddset(&kick, kick_signal());
  ::pthread_sigmask(SIG_UNBLOCK, &kick, nullptr);
  thread_id_ = ::gettid();
  base::Status confined = hooks_.confine ? hooks_.confine() : base::Status{};
  const bool goes_on = confined.has_value();
  {
    const std::lock_guard lock(mutex_);
    confined_ = std::move(confined);
    changed_.notify_all();
  }
  if (!goes_on) return;
  while (wait_for_run()) {
    run();
    finish_pending_io();
  }
}

// False: stop.
bool Vcpu::wait_for_run() {
  {
    const std::lock_guard lock(mutex_);
    parked_ = true;
    changed_.notify_all();
  }
  if (hooks_.on_parked) hooks_.on_parked();
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return command_ != Command::kPark; });
  if (command_ == Command::kStop) return false;
  parked_ = false;
  return true;
}

void Vcpu::run() {
  fd_.set_immediate_exit(false);  // before the first look at the command: see kick()
  if (index_ == 0 && !std::exchange(entered_, true)) base::timeline::mark("first_vcpu_entry");
  while (command_ == Command::kRun) enter_once();
}

void Vcpu::enter_once() {
  const int error = fd_.run();
  if (error == EINTR) fd_.set_immediate_exit(false);
  if (auto exit = handle_exit(decode_exit(fd_.run_bytes(), error), buses_)) end(std::move(*exit));
}

// After a device access KVM has yet to put the value into its register or to take the next part of a longer
// one; it does so on the next KVM_RUN, which immediate_exit keeps from executing anything.
void Vcpu::finish_pending_io() {
  constexpr int kMostParts = 4096;  // of one instruction's I/O; a bound, never reached
  for (int i = 0; i < kMostParts && !ended_; ++i) {
    fd_.set_immediate_exit(true);
    const int error = fd_.run();
    if (error != 0) return;
    if (auto exit = handle_exit(decode_exit(fd_.run_bytes(), error), buses_)) end(std::move(*exit));
  }
}

void Vcpu::end(Exit exit) {
  if (exit.reason == ExitReason::kKvmError) {
    if (const auto regs = fd_.get_regs()) {
      exit.detail += fmt::format(", vCPU {}, rip {:#x}, rsp {:#x}, rflags {:#x}", index_, regs->rip,
                                 regs->rsp, regs->rflags);
    }
  }
  ended_ = true;
  command(Command::kStop);
  on_end_(std::move(exit));
}

}  // namespace mayfly::vmm
