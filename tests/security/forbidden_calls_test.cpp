// Every thread of mayfly-vmm, with the filter that is built in, tries what an attacker would who runs in it.
// docs/security.md has the table.
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "base/thread_name.h"
#include "jailer/seccomp/install.h"
#include "tests/support/child.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::jailer::seccomp;
using namespace mayfly::test;
using Catch::Contains;

namespace {

constexpr std::array kAllThreads = {Thread::kVmm, Thread::kApi, Thread::kVcpu};

// What the child has at hand, made before its filter goes on.
struct Loot {
  int file = -1;  // /dev/null
  std::array<int, 2> pipe{};
  std::string folder;
  pid_t parent = 0;
};

struct Attack {
  const char* what;
  const char* call;  // that ends the process
  std::function<long(const Loot&)> act;
  std::vector<Thread> survives = {};  // threads whose filter lets the call through
};

long call(long number, auto... arguments) {
  return ::syscall(number, arguments...);
}

// A program, with the filter of `thread` on a thread of that name: what came of one attack in it.
Ended attack(Thread thread, const Loot& loot, const std::function<long(const Loot&)>& act) {
  static const Filters filters = Filters::embedded().value();
  return in_child([&] {
    ::mallopt(M_ARENA_MAX, 1);  // as in mayfly-vmm
    if (!filters.prepare()) ::_exit(9);
    std::thread attacker([&] {
      base::set_thread_name(name_of(thread));
      if (!filters.confine(thread)) ::_exit(9);
      // By hand: an attacker needs no C library, either.
      ::syscall(SYS_exit_group, act(loot) < 0 ? 1 : 0);
    });
    attacker.join();
  });
}

const std::vector<Attack>& attacks() {
  static const std::vector<Attack> all = {
      // programs
      {"run a program", "execve", [](auto&) { return call(SYS_execve, "/bin/sh", nullptr, nullptr); }},
      {"run a program by descriptor", "execveat",
       [](auto& l) { return call(SYS_execveat, l.file, "", nullptr, nullptr, AT_EMPTY_PATH); }},
      {"make a process", "fork", [](auto&) { return call(SYS_fork); }},
      {"make a process that shares memory", "vfork", [](auto&) { return call(SYS_vfork); }},
      {"make a process by clone", "clone", [](auto&) { return call(SYS_clone, SIGCHLD, 0, 0, 0, 0); }},
      {"make a thread, which would have the filter, too", "clone",
       [](auto&) { return call(SYS_clone, CLONE_VM | CLONE_THREAD | CLONE_SIGHAND, 0, 0, 0, 0); }},
      {"make a process by clone3", "clone3",
       [](auto&) {
         clone_args args{};
         args.exit_signal = SIGCHLD;
         return call(SYS_clone3, &args, sizeof(args));
       }},
      // memory that can be executed
      {"map memory to write and execute", "mmap",
       [](auto&) {
         return call(SYS_mmap, 0, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
       }},
      {"map memory to execute", "mmap",
       [](auto&) { return call(SYS_mmap, 0, 4096, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }},
      {"map a file", "mmap",
       [](auto& l) { return call(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE, l.file, 0); }},
      {"map at an address of its choice, over other memory", "mmap",
       [](auto&) {
         return call(SYS_mmap, 0x10000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                     -1, 0);
       }},
      {"make memory executable", "mprotect", [](auto&) { return call(SYS_mprotect, 4096, 4096, PROT_EXEC); }},
      {"make memory executable with a key", "pkey_mprotect",
       [](auto&) { return call(SYS_pkey_mprotect, 4096, 4096, PROT_EXEC, -1); }},
      {"a file in memory, to run code from", "memfd_create",
       [](auto&) { return call(SYS_memfd_create, "x", 0); }},
      // files
      {"make a file", "openat",
       [](auto& l) {
         return call(SYS_openat, AT_FDCWD, (l.folder + "/new").c_str(), O_WRONLY | O_CREAT, 0600);
       }},
      {"make a file, otherwise as PATCH /drives opens one", "openat",
       [](auto& l) {
         return call(SYS_openat, AT_FDCWD, (l.folder + "/new").c_str(),
                     O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_CREAT, 0600);
       }},
      {"empty a file", "openat",
       [](auto& l) { return call(SYS_openat, AT_FDCWD, (l.folder + "/old").c_str(), O_WRONLY | O_TRUNC); }},
      {"make a file without a name", "openat",
       [](auto& l) { return call(SYS_openat, AT_FDCWD, l.folder.c_str(), O_RDWR | O_TMPFILE, 0600); }},
      {"open a folder", "openat",
       [](auto&) { return call(SYS_openat, AT_FDCWD, "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); }},
      {"open relative to a descriptor, past a chroot", "openat",
       [](auto& l) { return call(SYS_openat, l.file, "..", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC); }},
      {"open by the old call", "open", [](auto&) { return call(SYS_open, "/etc/passwd", O_RDONLY); }},
      {"open by openat2", "openat2",
       [](auto&) { return call(SYS_openat2, AT_FDCWD, "/etc/passwd", nullptr, 0); }},
      {"open a file that is there, as PATCH /drives does: the jail's to prevent",
       "openat",
       [](auto& l) {
         return call(SYS_openat, AT_FDCWD, (l.folder + "/old").c_str(),
                     O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
       },
       {Thread::kVmm}},
      {"rename", "rename", [](auto&) { return call(SYS_rename, "/a", "/b"); }},
      {"link", "linkat", [](auto&) { return call(SYS_linkat, AT_FDCWD, "/a", AT_FDCWD, "/b", 0); }},
      {"symlink", "symlink", [](auto&) { return call(SYS_symlink, "/a", "/b"); }},
      {"make a folder", "mkdir", [](auto&) { return call(SYS_mkdir, "/x", 0700); }},
      {"make a device", "mknod", [](auto&) { return call(SYS_mknod, "/x", S_IFCHR | 0600, 1); }},
      {"change a mode", "chmod", [](auto&) { return call(SYS_chmod, "/", 0777); }},
      {"change a descriptor's mode", "fchmod", [](auto& l) { return call(SYS_fchmod, l.file, 0777); }},
      {"change an owner", "chown", [](auto&) { return call(SYS_chown, "/", 0, 0); }},
      {"cut a file", "ftruncate", [](auto& l) { return call(SYS_ftruncate, l.file, 0); }},
      {"list a folder", "getdents64", [](auto& l) { return call(SYS_getdents64, l.file, nullptr, 0); }},
      {"read a link", "readlink", [](auto&) { return call(SYS_readlink, "/proc/self/exe", nullptr, 0); }},
      {"put a descriptor elsewhere", "dup2", [](auto& l) { return call(SYS_dup2, l.file, 40); }},
      {"a descriptor's copy", "fcntl", [](auto& l) { return call(SYS_fcntl, l.file, F_DUPFD, 0); }},
      {"let descriptors outlive an exec", "fcntl",
       [](auto& l) { return call(SYS_fcntl, l.file, F_SETFD, 0); }},
      {"send signals for input", "fcntl", [](auto& l) { return call(SYS_fcntl, l.file, F_SETOWN, 1); }},
      // terminals and devices
      {"type into the terminal of whoever started it", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, TIOCSTI, "x"); }},
      {"paste into the console", "ioctl", [](auto& l) { return call(SYS_ioctl, l.file, 0x541c, nullptr); }},
      {"another virtual machine", "ioctl", [](auto& l) { return call(SYS_ioctl, l.file, KVM_CREATE_VM, 0); }},
      {"another vCPU", "ioctl", [](auto& l) { return call(SYS_ioctl, l.file, KVM_CREATE_VCPU, 9); }},
      {"more of the host's memory for the guest", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, KVM_SET_USER_MEMORY_REGION, nullptr); }},
      {"a KVM device", "ioctl", [](auto& l) { return call(SYS_ioctl, l.file, KVM_CREATE_DEVICE, nullptr); }},
      {"KVM's debugging", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, KVM_SET_GUEST_DEBUG, nullptr); }},
      {"interrupt routing", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, KVM_SET_GSI_ROUTING, nullptr); }},
      {"run a guest", "ioctl", [](auto& l) { return call(SYS_ioctl, l.file, KVM_RUN, 0); }, {Thread::kVcpu}},
      {"another tap", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, 0x400454ca, nullptr); }},  // TUNSETIFF
      {"a filter program on the tap", "ioctl",
       [](auto& l) { return call(SYS_ioctl, l.file, 0x801054db, nullptr); }},
      // network
      {"an internet socket", "socket", [](auto&) { return call(SYS_socket, AF_INET, SOCK_STREAM, 0); }},
      {"an internet socket, version 6", "socket",
       [](auto&) { return call(SYS_socket, AF_INET6, SOCK_DGRAM, 0); }},
      {"a netlink socket", "socket", [](auto&) { return call(SYS_socket, AF_NETLINK, SOCK_RAW, 0); }},
      {"a packet socket", "socket", [](auto&) { return call(SYS_socket, AF_PACKET, SOCK_RAW, 0); }},
      {"a vsock socket", "socket", [](auto&) { return call(SYS_socket, AF_VSOCK, SOCK_STREAM, 0); }},
      {"a crypto socket", "socket", [](auto&) { return call(SYS_socket, AF_ALG, SOCK_SEQPACKET, 0); }},
      {"a unix socket for datagrams", "socket",
       [](auto&) { return call(SYS_socket, AF_UNIX, SOCK_DGRAM, 0); }},
      {"a pair of sockets", "socketpair",
       [](auto&) { return call(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, nullptr); }},
      {"a service of its own", "bind", [](auto& l) { return call(SYS_bind, l.file, nullptr, 0); }},
      {"listen", "listen", [](auto& l) { return call(SYS_listen, l.file, 9); }},
      {"a datagram to somebody else", "sendto",
       [](auto& l) {
         sockaddr_un to{};
         return call(SYS_sendto, l.file, "x", 1, MSG_NOSIGNAL, &to, sizeof(to));
       }},
      {"socket options", "setsockopt",
       [](auto& l) { return call(SYS_setsockopt, l.file, 1, 1, nullptr, 0); }},
      // other processes
      {"kill another process", "kill", [](auto& l) { return call(SYS_kill, l.parent, SIGKILL); }},
      {"signal another process's thread", "tgkill",
       [](auto& l) { return call(SYS_tgkill, l.parent, l.parent, SIGTERM); }},
      {"signal without a group", "tkill", [](auto& l) { return call(SYS_tkill, l.parent, SIGKILL); }},
      {"signal with data", "rt_sigqueueinfo",
       [](auto& l) { return call(SYS_rt_sigqueueinfo, l.parent, SIGKILL, nullptr); }},
      {"signal by descriptor", "pidfd_send_signal",
       [](auto& l) { return call(SYS_pidfd_send_signal, l.file, SIGKILL, nullptr, 0); }},
      {"trace another process", "ptrace",
       [](auto& l) { return call(SYS_ptrace, PTRACE_ATTACH, l.parent, 0, 0); }},
      {"read another's memory", "process_vm_readv",
       [](auto& l) { return call(SYS_process_vm_readv, l.parent, nullptr, 0, nullptr, 0, 0); }},
      {"write another's memory", "process_vm_writev",
       [](auto& l) { return call(SYS_process_vm_writev, l.parent, nullptr, 0, nullptr, 0, 0); }},
      {"take another's descriptor", "pidfd_getfd",
       [](auto& l) { return call(SYS_pidfd_getfd, l.file, 0, 0); }},
      {"hold another process", "pidfd_open", [](auto& l) { return call(SYS_pidfd_open, l.parent, 0); }},
      {"compare with another", "kcmp", [](auto& l) { return call(SYS_kcmp, l.parent, l.parent, 0, 0, 0); }},
      {"slow others down", "setpriority", [](auto& l) { return call(SYS_setpriority, 0, l.parent, 19); }},
      {"another's limits", "prlimit64",
       [](auto& l) { return call(SYS_prlimit64, l.parent, 0, nullptr, nullptr); }},
      {"another's CPUs", "sched_setaffinity",
       [](auto& l) { return call(SYS_sched_setaffinity, l.parent, 0, nullptr); }},
      // out of the jail
      {"mount", "mount", [](auto&) { return call(SYS_mount, "none", "/", "tmpfs", 0, nullptr); }},
      {"unmount", "umount2", [](auto&) { return call(SYS_umount2, "/", MNT_DETACH); }},
      {"mount by descriptor", "open_tree", [](auto&) { return call(SYS_open_tree, AT_FDCWD, "/", 0); }},
      {"another root", "chroot", [](auto&) { return call(SYS_chroot, "/"); }},
      {"change the root", "pivot_root", [](auto&) { return call(SYS_pivot_root, "/", "/"); }},
      {"another folder", "chdir", [](auto&) { return call(SYS_chdir, "/"); }},
      {"another folder by descriptor", "fchdir", [](auto& l) { return call(SYS_fchdir, l.file); }},
      {"a namespace", "unshare", [](auto&) { return call(SYS_unshare, CLONE_NEWUSER | CLONE_NEWNS); }},
      {"another's namespace", "setns", [](auto& l) { return call(SYS_setns, l.file, 0); }},
      {"open by handle", "open_by_handle_at",
       [](auto& l) { return call(SYS_open_by_handle_at, l.file, nullptr, 0); }},
      {"another user", "setuid", [](auto&) { return call(SYS_setuid, 0); }},
      {"another group", "setgid", [](auto&) { return call(SYS_setgid, 0); }},
      {"capabilities", "capset", [](auto&) { return call(SYS_capset, nullptr, nullptr); }},
      // the kernel
      {"a program in the kernel", "bpf", [](auto&) { return call(SYS_bpf, BPF_PROG_LOAD, nullptr, 0); }},
      {"a ring that passes by filters", "io_uring_setup",
       [](auto&) { return call(SYS_io_uring_setup, 8, nullptr); }},
      {"buffers of a ring", "io_uring_register",
       [](auto& l) { return call(SYS_io_uring_register, l.file, IORING_REGISTER_BUFFERS, nullptr, 0); }},
      {"another personality of a ring", "io_uring_register",
       [](auto& l) { return call(SYS_io_uring_register, l.file, IORING_REGISTER_PERSONALITY, nullptr, 0); }},
      {"requeue futexes", "futex",
       [](auto&) { return call(SYS_futex, nullptr, FUTEX_CMP_REQUEUE_PI, 1, 1, nullptr, 0); }},
      {"lock a futex with inheritance", "futex",
       [](auto&) { return call(SYS_futex, nullptr, FUTEX_LOCK_PI, 0, 0); }},
      {"handle page faults", "userfaultfd", [](auto&) { return call(SYS_userfaultfd, UFFD_USER_MODE_ONLY); }},
      {"count events", "perf_event_open",
       [](auto&) { return call(SYS_perf_event_open, nullptr, 0, -1, -1, 0); }},
      {"keys", "keyctl", [](auto&) { return call(SYS_keyctl, 0, 0, 0, 0, 0); }},
      {"a module", "init_module", [](auto&) { return call(SYS_init_module, nullptr, 0, ""); }},
      {"another kernel", "kexec_load", [](auto&) { return call(SYS_kexec_load, 0, 0, nullptr, 0); }},
      {"reboot", "reboot", [](auto&) { return call(SYS_reboot, 0, 0, 0, nullptr); }},
      {"the kernel's log", "syslog", [](auto&) { return call(SYS_syslog, 3, nullptr, 0); }},
      {"ports", "iopl", [](auto&) { return call(SYS_iopl, 3); }},
      {"segments of its own", "modify_ldt", [](auto&) { return call(SYS_modify_ldt, 1, nullptr, 0); }},
      {"the clock", "clock_settime", [](auto&) { return call(SYS_clock_settime, 0, nullptr); }},
      {"shared memory", "shmget", [](auto&) { return call(SYS_shmget, 1, 4096, 0600); }},
      // its own fetters
      {"another filter", "seccomp", [](auto&) { return call(SYS_seccomp, 1, 0, nullptr); }},
      {"its attributes", "prctl", [](auto&) { return call(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0); }},
      {"another handler of the filter's signal", "rt_sigaction",
       [](auto&) { return call(SYS_rt_sigaction, SIGSYS, nullptr, nullptr, 8); }},
      {"another stack for handlers", "sigaltstack",
       [](auto&) { return call(SYS_sigaltstack, nullptr, nullptr); }},
      {"other segment bases", "arch_prctl", [](auto&) { return call(SYS_arch_prctl, 0x1002, 0); }},
      {"core dumps", "setrlimit", [](auto&) { return call(SYS_setrlimit, 4, nullptr); }},
      {"higher priority", "sched_setscheduler",
       [](auto&) { return call(SYS_sched_setscheduler, 0, 1, nullptr); }},
      {"memory that stays", "mlockall", [](auto&) { return call(SYS_mlockall, 3); }},
      {"advice that breaks pages", "madvise",
       [](auto&) { return call(SYS_madvise, 4096, 4096, MADV_HWPOISON); }},
      {"calls under another name", "ioperm", [](auto&) { return call(SYS_ioperm, 0, 1, 1); }},
  };
  return all;
}

}  // namespace

TEST_CASE("every thread's filter stops what an attacker would do") {
  const TemporaryFolder folder;
  static_cast<void>(folder.file("old", "old"));
  Loot loot{.folder = folder.path(""), .parent = ::getpid()};
  loot.file = ::open("/dev/null", O_RDWR);
  REQUIRE(::pipe(loot.pipe.data()) == 0);
  for (const Attack& each : attacks()) {
    for (const Thread thread : kAllThreads) {
      INFO(name_of(thread) << ": " << each.what);
      const Ended ended = attack(thread, loot, each.act);
      INFO("said: " << ended.said);
      CHECK(ended.signal == 0);
      if (std::ranges::count(each.survives, thread) > 0) {
        CHECK(ended.status < 2);
        continue;
      }
      CHECK(ended.status == kExitForbiddenCall);
      CHECK_THAT(ended.said, Contains("the " + std::string(name_of(thread)) +
                                      " thread was stopped at the system call " + each.call + " ("));
    }
  }
  CHECK_FALSE(std::filesystem::exists(folder.path("new")));
  CHECK(std::filesystem::file_size(folder.path("old")) == 3);
}

TEST_CASE("the threads can end, and the process") {
  for (const Thread thread : kAllThreads) {
    const Ended ended = attack(thread, {}, [](const Loot&) { return 0L; });
    CHECK(ended.status == 0);
    CHECK(ended.said.empty());
  }
  static const Filters filters = Filters::embedded().value();
  for (const Thread thread : {Thread::kApi, Thread::kVcpu}) {
    const Ended ended = in_child([&] {
      ::mallopt(M_ARENA_MAX, 1);
      if (!filters.prepare()) ::_exit(9);
      std::thread([&] {
        if (!filters.confine(thread)) ::_exit(9);
      }).join();
    });
    INFO(ended.said);
    CHECK(ended.status == 0);
  }
}
