#include "jailer/seccomp/install.h"

#include <fmt/format.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>

#include "base/file.h"
#include "base/last_words.h"
#include "base/thread_name.h"
#include "jailer/seccomp/embedded.h"

namespace mayfly::jailer::seccomp {

using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

// Of this thread's filter; read by the handler, on the thread that it runs on.
thread_local std::string_view confined_as = "vmm";

// Why a handler, and not SECCOMP_RET_KILL_PROCESS, which is as final: that leaves no word but in the kernel's
// log, which the people who run a VMM may not see. SECCOMP_RET_TRAP refuses the call as surely; then the
// kernel forces SIGSYS upon the thread. A thread that blocked the signal, or finds itself in this handler
// already, is killed with the process on the spot. To change the handler needs rt_sigaction(2), which no
// policy allows.
[[noreturn]] void on_forbidden_call(int /*signal*/, siginfo_t* info, void* /*context*/) {
  std::array<char, 256> text;
  const auto end = fmt::format_to_n(
      text.data(), text.size(),
      "the {} thread was stopped at the system call {} ({}), which its filter does not allow", confined_as,
      name_of_call(info->si_syscall), info->si_syscall);
  base::log::last_words({text.data(), end.out});
  // All threads, without anything of the C library's that could be made to go on.
  for (;;) ::syscall(SYS_exit_group, kExitForbiddenCall);
}

Status set_handler() {
  struct sigaction action {};
  action.sa_sigaction = on_forbidden_call;
  action.sa_flags = SA_SIGINFO;
  ::sigfillset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) < 0) return fail_errno(errno, "handle SIGSYS");
  return {};
}

}  // namespace

bool have_embedded() {
  return !kEmbeddedFilters.empty();
}

Result<Filters> Filters::embedded() {
  auto programs = decode(std::as_bytes(kEmbeddedFilters));
  if (!programs) return fail_because(std::move(programs).error(), "the system call filters of this build");
  return Filters(std::move(*programs));
}

Result<Filters> Filters::load(const std::string& path) {
  const std::string text = TRY(base::read_file(path, kLargestFilterFile));
  auto programs = decode(std::as_bytes(std::span(text)));
  if (!programs) return fail_because(std::move(programs).error(), "{}", path);
  return Filters(std::move(*programs));
}

Status Filters::prepare() const {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno(errno, "forbid new privileges");
  return set_handler();
}

Status Filters::confine(Thread thread) const {
  // What the handler will say, as long as the kernel may be asked for it.
  confined_as = name_of(thread);
  static_cast<void>(base::thread_name());
  sigset_t trap;
  ::sigemptyset(&trap);
  ::sigaddset(&trap, SIGSYS);
  if (const int error = ::pthread_sigmask(SIG_UNBLOCK, &trap, nullptr); error != 0) {
    return fail_errno(error, "unblock SIGSYS");
  }
  Program program = programs_[static_cast<std::size_t>(thread)];
  const auto process = static_cast<std::uint32_t>(::getpid());
  for (sock_filter& instruction : program) {
    if (instruction.code == (BPF_JMP | BPF_JEQ | BPF_K) && instruction.k == kOwnProcess)
      instruction.k = process;
  }
  const sock_fprog whole{.len = static_cast<unsigned short>(program.size()), .filter = program.data()};
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole) < 0) {
    return fail_errno(errno, "install the system call filter of the {} thread", name_of(thread));
  }
  return {};
}

std::string_view name_of_call(long number) {
  const bool known = number >= 0 && static_cast<std::size_t>(number) < kCallNames.size();
  const std::string_view name = known ? kCallNames[static_cast<std::size_t>(number)] : std::string_view();
  return name.empty() ? "?" : name;
}

}  // namespace mayfly::jailer::seccomp
