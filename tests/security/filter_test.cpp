// Compiled policies in the kernel: what is allowed passes, what is not ends the process with a line that says
// so.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <catch2/catch.hpp>
#include <cerrno>
#include <csignal>
#include <thread>

#include "base/file.h"
#include "base/log.h"
#include "jailer/seccomp/compile.h"
#include "jailer/seccomp/install.h"
#include "tests/support/child.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::jailer::seccomp;
using namespace mayfly::test;
using Catch::Contains;

namespace {

// What the end of a process takes, and its last words.
constexpr const char* kLeast = "write : a\nppoll : a\nclock_gettime : a\nexit_group : a\n";

Filters filters_of(const std::string& rules, Otherwise otherwise = Otherwise::kTrap) {
  const TemporaryFolder folder;
  const auto policy = [&](const std::string& thread) {
    return parse_policy("thread " + thread + "\nat-most 99\n" + kLeast + rules, "p").value();
  };
  const std::vector<Policy> policies = {policy("vcpu"), policy("vmm"), policy("api")};
  const auto bytes = encode(compile_all(policies, otherwise).value());
  std::string text(bytes.size(), '\0');
  std::memcpy(text.data(), bytes.data(), bytes.size());
  return Filters::load(folder.file("filters", text)).value();
}

// Status 9: it could not be tried.
template <typename Act>
Ended confined(const Filters& filters, const Act& act, Thread thread = Thread::kVcpu) {
  return in_child([&] {
    if (!filters.prepare() || !filters.confine(thread)) ::_exit(9);
    act();
  });
}

}  // namespace

TEST_CASE("filter: what a rule allows passes, and the rest ends the process with a line") {
  const Filters filters = filters_of("getppid : x\n");
  CHECK(confined(filters, [] { ::syscall(SYS_getppid); }).status == 0);
  const Ended ended = confined(filters, [] { ::syscall(SYS_getuid); });
  CHECK(ended.status == kExitForbiddenCall);
  CHECK_THAT(ended.said,
             Contains("] the vcpu thread was stopped at the system call getuid (102), which its filter does "
                      "not allow\n"));
  CHECK(std::count(ended.said.begin(), ended.said.end(), '\n') == 1);
  CHECK_THAT(confined(
                 filters, [] { ::syscall(SYS_getuid); }, Thread::kApi)
                 .said,
             Contains("the api thread"));
  CHECK_THAT(confined(
                 filters, [] { ::syscall(SYS_getuid); }, Thread::kVmm)
                 .said,
             Contains("the vmm thread"));
}

TEST_CASE("filter: an argument decides") {
  const Filters filters = filters_of(
      "ioctl request == KVM_RUN : x\n"
      "mmap prot & PROT_EXEC == 0 : x\nmprotect prot & PROT_EXEC == 0 : x\n"
      "socket domain == AF_UNIX : x\n"
      "openat flags & 0x40 == 0 : x\nfcntl cmd == F_SETFL and arg == 0 : x\n");
  struct Case {
    std::function<void()> act;
    bool allowed;
  };
  const std::vector<Case> cases = {
      {[] { ::syscall(SYS_ioctl, 0, 0xae80); }, true},
      // The kernel looks at the lower half of a command, and so does the filter: neither more nor less
      // passes.
      {[] { ::syscall(SYS_ioctl, 0, 0xffff'ffff'0000'ae80ULL); }, true},
      {[] { ::syscall(SYS_ioctl, 0, 0xae81); }, false},
      {[] { ::syscall(SYS_ioctl, 0, 0xae80'0000'0000ULL); }, false},
      {[] { ::syscall(SYS_ioctl, 0, TIOCSTI); }, false},
      {[] { ::syscall(SYS_mmap, 0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); },
       true},
      {[] { ::syscall(SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); },
       false},
      {[] { ::syscall(SYS_mprotect, 4096, 4096, PROT_READ); }, true},
      {[] { ::syscall(SYS_mprotect, 4096, 4096, PROT_EXEC); }, false},
      {[] { ::syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0); }, true},
      {[] { ::syscall(SYS_socket, AF_INET, SOCK_STREAM, 0); }, false},
      {[] { ::syscall(SYS_openat, AT_FDCWD, "/nowhere", O_RDWR); }, true},
      {[] { ::syscall(SYS_openat, AT_FDCWD, "/nowhere", O_RDWR | O_CREAT, 0600); }, false},
      {[] { ::syscall(SYS_fcntl, 0, F_SETFL, 0); }, true},
      {[] { ::syscall(SYS_fcntl, 0, F_SETFL, 1); }, false},
      {[] { ::syscall(SYS_fcntl, 0, F_DUPFD, 0); }, false},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO("case " << i);
    const Ended ended = confined(filters, cases[i].act);
    INFO(ended.said);
    CHECK(ended.signal == 0);
    CHECK(ended.status == (cases[i].allowed ? 0 : kExitForbiddenCall));
  }
}

TEST_CASE("filter: OWN-PROCESS is the process that installs it") {
  const Filters filters = filters_of("tgkill tgid == OWN-PROCESS and sig == SIGHUP : x\n");
  const pid_t parent = ::getpid();
  CHECK(confined(filters, [&] { ::syscall(SYS_tgkill, parent, parent, SIGHUP); }).status ==
        kExitForbiddenCall);
  CHECK(in_child([&] {
          const pid_t own = ::getpid();
          if (!filters.prepare() || !filters.confine(Thread::kVmm)) ::_exit(9);
          ::syscall(SYS_tgkill, own, own, SIGHUP);
        }).signal == SIGHUP);
  CHECK(in_child([&] {
          const pid_t own = ::getpid();
          if (!filters.prepare() || !filters.confine(Thread::kVmm)) ::_exit(9);
          ::syscall(SYS_tgkill, own, own, SIGKILL);
        }).status == kExitForbiddenCall);
}

TEST_CASE("filter: calls by other tables of numbers kill on the spot") {
  const Filters filters = filters_of("getppid : x\n");
  // x32's getppid.
  const Ended x32 = confined(filters, [] { ::syscall(0x40000000 + SYS_getppid); });
  CHECK((x32.signal == SIGSYS || x32.status == kExitForbiddenCall));
  // getpid of 32 bits is 20, which is writev here.
  const Ended i386 = confined(filters, [] {
    long result = 20;
    asm volatile("int $0x80" : "+a"(result) : : "memory");
  });
  CHECK(i386.signal != 0);
}

TEST_CASE("filter: a thread that blocks the signal, or is stopped in the handler, is killed all the same") {
  const Filters filters = filters_of("rt_sigprocmask : x\n");
  const Ended blocked = confined(filters, [] {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
    ::syscall(SYS_getuid);
  });
  CHECK(blocked.signal == SIGSYS);
  // The handler cannot be exchanged.
  CHECK(confined(filters, [] { ::signal(SIGSYS, SIG_IGN); }).status == kExitForbiddenCall);
}

TEST_CASE("filter: other threads go with the one that was stopped") {
  const Filters filters = filters_of("");
  const Ended ended = in_child([&] {
    if (!filters.prepare()) ::_exit(9);
    std::thread thread([&] {
      if (!filters.confine(Thread::kApi)) ::_exit(9);
      ::syscall(SYS_getuid);
    });
    for (;;) ::pause();
  });
  CHECK(ended.status == kExitForbiddenCall);
  CHECK_THAT(ended.said, Contains("the api thread"));
}

TEST_CASE("filter: a filter only takes away, and another cannot give back") {
  const Filters wide = filters_of("getuid : x\nseccomp : x\nrt_sigprocmask : x\ngetpid : x\nprctl : x\n");
  const Filters narrow = filters_of("seccomp : x\nrt_sigprocmask : x\ngetpid : x\nprctl : x\n");
  const auto both = [&](const Filters& first, const Filters& second) {
    return confined(first, [&] {
      if (!second.confine(Thread::kVmm)) ::_exit(9);
      ::syscall(SYS_getuid);
    });
  };
  CHECK(both(wide, wide).status == 0);
  CHECK(both(wide, narrow).status == kExitForbiddenCall);
  CHECK(both(narrow, wide).status == kExitForbiddenCall);
}

TEST_CASE("filter: with --otherwise kill there is no line, with log all goes on") {
  const Ended killed = confined(filters_of("", Otherwise::kKill), [] { ::syscall(SYS_getuid); });
  CHECK(killed.signal == SIGSYS);
  CHECK(killed.said.empty());
  CHECK(confined(filters_of("", Otherwise::kLog), [] { ::syscall(SYS_getuid); }).status == 0);
}

TEST_CASE("filter: the line goes to the log file, whatever its level") {
  const TemporaryFolder folder;
  const std::string path = folder.path("log");
  const Filters filters = filters_of("");
  const Ended ended = in_child([&] {
    base::log::Options options;
    options.path = path;
    options.level = base::log::Level::kOff;
    options.instance_id = "some-id";
    if (!base::log::configure(options) || !filters.prepare() || !filters.confine(Thread::kVcpu)) ::_exit(9);
    ::syscall(SYS_execve, "/bin/true", nullptr, nullptr);
  });
  CHECK(ended.status == kExitForbiddenCall);
  CHECK(ended.said.empty());
  const std::string log = base::read_file(path).value();
  CHECK_THAT(
      log, Contains(" [some-id:") && Contains("the vcpu thread was stopped at the system call execve (59)"));
}

TEST_CASE("filter: one policy for each thread") {
  const auto policy = [](const char* thread) {
    return parse_policy(std::string("thread ") + thread + "\nat-most 1\nread : x\n",
                        std::string(thread) + ".policy")
        .value();
  };
  const auto fault = [](const std::vector<Policy>& policies) {
    const auto compiled = compile_all(policies, Otherwise::kTrap);
    return compiled ? "none" : compiled.error().message;
  };
  CHECK(fault({policy("vcpu"), policy("vmm"), policy("api")}) == "none");
  CHECK(fault({policy("vcpu"), policy("vmm")}) == "there is no policy for the thread api");
  CHECK(fault({policy("vcpu"), policy("vcpu")}) == "vcpu.policy: another policy is for the thread vcpu, too");
}
