#include "jailer/seccomp/words.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <seccomp.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <csignal>

namespace mayfly::jailer::seccomp {

namespace {

struct Constant {
  std::string_view name;
  std::uint64_t value;
};

// Of whatever type the header gives it.
template <typename T>
constexpr std::uint64_t number(T value) {
  return static_cast<std::uint64_t>(value);
}

const std::array<Constant, 69> kConstants = {{
    // memory
    {"PROT_NONE", number(PROT_NONE)},
    {"PROT_READ", number(PROT_READ)},
    {"PROT_WRITE", number(PROT_WRITE)},
    {"PROT_EXEC", number(PROT_EXEC)},
    {"MAP_PRIVATE", number(MAP_PRIVATE)},
    {"MAP_SHARED", number(MAP_SHARED)},
    {"MAP_ANONYMOUS", number(MAP_ANONYMOUS)},
    {"MAP_NORESERVE", number(MAP_NORESERVE)},
    {"MADV_DONTNEED", number(MADV_DONTNEED)},
    // files
    {"AT_FDCWD", number(AT_FDCWD)},
    {"AT_EMPTY_PATH", number(AT_EMPTY_PATH)},
    {"AT_SYMLINK_NOFOLLOW", number(AT_SYMLINK_NOFOLLOW)},
    {"O_RDONLY", number(O_RDONLY)},
    {"O_WRONLY", number(O_WRONLY)},
    {"O_RDWR", number(O_RDWR)},
    {"O_CLOEXEC", number(O_CLOEXEC)},
    {"O_NONBLOCK", number(O_NONBLOCK)},
    {"O_NOCTTY", number(O_NOCTTY)},
    {"O_CREAT", number(O_CREAT)},
    {"O_TRUNC", number(O_TRUNC)},
    {"O_APPEND", number(O_APPEND)},
    {"O_EXCL", number(O_EXCL)},
    {"F_DUPFD_CLOEXEC", number(F_DUPFD_CLOEXEC)},
    {"F_SETFL", number(F_SETFL)},
    {"F_GETFL", number(F_GETFL)},
    {"FALLOC_FL_KEEP_SIZE", number(FALLOC_FL_KEEP_SIZE)},
    {"FALLOC_FL_PUNCH_HOLE", number(FALLOC_FL_PUNCH_HOLE)},
    {"FALLOC_FL_ZERO_RANGE", number(FALLOC_FL_ZERO_RANGE)},
    {"BLKGETSIZE64", number(BLKGETSIZE64)},
    {"BLKPBSZGET", number(BLKPBSZGET)},
    {"BLKIOMIN", number(BLKIOMIN)},
    {"BLKIOOPT", number(BLKIOOPT)},
    {"BLKSSZGET", number(BLKSSZGET)},
    {"BLKDISCARD", number(BLKDISCARD)},
    // sockets and events
    {"AF_UNIX", number(AF_UNIX)},
    {"SOCK_STREAM", number(SOCK_STREAM)},
    {"SOCK_CLOEXEC", number(SOCK_CLOEXEC)},
    {"SOCK_NONBLOCK", number(SOCK_NONBLOCK)},
    {"SHUT_RD", number(SHUT_RD)},
    {"SHUT_WR", number(SHUT_WR)},
    {"MSG_DONTWAIT", number(MSG_DONTWAIT)},
    {"MSG_NOSIGNAL", number(MSG_NOSIGNAL)},
    {"MSG_PEEK", number(MSG_PEEK)},
    {"EPOLL_CTL_ADD", number(EPOLL_CTL_ADD)},
    {"EPOLL_CTL_MOD", number(EPOLL_CTL_MOD)},
    {"EPOLL_CTL_DEL", number(EPOLL_CTL_DEL)},
    // io_uring
    {"IORING_ENTER_GETEVENTS", number(IORING_ENTER_GETEVENTS)},
    {"IORING_REGISTER_FILES_UPDATE", number(IORING_REGISTER_FILES_UPDATE)},
    {"IORING_REGISTER_SYNC_CANCEL", number(IORING_REGISTER_SYNC_CANCEL)},
    // network and KVM
    {"TUNSETOFFLOAD", number(TUNSETOFFLOAD)},
    {"KVM_RUN", number(KVM_RUN)},
    {"KVM_GET_REGS", number(KVM_GET_REGS)},
    {"KVM_KVMCLOCK_CTRL", number(KVM_KVMCLOCK_CTRL)},
    // threads, signals, time
    {"FUTEX_WAIT", number(FUTEX_WAIT)},
    {"FUTEX_WAIT_PRIVATE", number(FUTEX_WAIT_PRIVATE)},
    {"FUTEX_WAKE", number(FUTEX_WAKE)},
    {"FUTEX_WAKE_PRIVATE", number(FUTEX_WAKE_PRIVATE)},
    {"FUTEX_WAIT_BITSET", number(FUTEX_WAIT_BITSET)},
    {"FUTEX_WAIT_BITSET_PRIVATE", number(FUTEX_WAIT_BITSET_PRIVATE)},
    {"FUTEX_CLOCK_REALTIME", number(FUTEX_CLOCK_REALTIME)},
    {"SIG_BLOCK", number(SIG_BLOCK)},
    {"SIG_SETMASK", number(SIG_SETMASK)},
    {"SIG_UNBLOCK", number(SIG_UNBLOCK)},
    {"SIGTERM", number(SIGTERM)},
    {"SIGINT", number(SIGINT)},
    {"SIGHUP", number(SIGHUP)},
    {"CLOCK_REALTIME", number(CLOCK_REALTIME)},
    {"CLOCK_MONOTONIC", number(CLOCK_MONOTONIC)},
    {"CLOCK_PROCESS_CPUTIME_ID", number(CLOCK_PROCESS_CPUTIME_ID)},
}};

struct Known {
  std::string_view call;
  std::string_view argument;
  Argument place;
};
constexpr std::array kArguments = {
    Known{"accept4", "flags", {3}},
    Known{"clock_gettime", "clockid", {0}},
    Known{"connect", "addrlen", {2}},
    Known{"epoll_ctl", "op", {1}},
    Known{"fallocate", "mode", {1}},
    Known{"fcntl", "cmd", {1}},
    Known{"fcntl", "arg", {2, true}},
    Known{"futex", "op", {1}},
    Known{"getrandom", "flags", {2}},
    Known{"io_uring_enter", "flags", {3}},
    Known{"io_uring_register", "opcode", {1}},
    Known{"ioctl", "request", {1}},
    Known{"madvise", "advice", {2}},
    Known{"mmap", "prot", {2, true}},
    Known{"mmap", "flags", {3}},
    Known{"mmap", "fd", {4}},
    Known{"mprotect", "prot", {2, true}},
    Known{"newfstatat", "flags", {3}},
    Known{"openat", "dirfd", {0}},
    Known{"openat", "flags", {2}},
    Known{"ppoll", "nfds", {1}},
    Known{"preadv2", "flags", {5}},
    Known{"pwritev2", "flags", {5}},
    Known{"recvfrom", "flags", {3}},
    Known{"recvfrom", "src_addr", {4, true}},
    Known{"recvmsg", "flags", {2}},
    Known{"rt_sigprocmask", "how", {0}},
    Known{"sendmsg", "flags", {2}},
    Known{"sendto", "flags", {3}},
    Known{"sendto", "dest_addr", {4, true}},
    Known{"shutdown", "how", {1}},
    Known{"socket", "domain", {0}},
    Known{"socket", "type", {1}},
    Known{"socket", "protocol", {2}},
    Known{"tgkill", "tgid", {0}},
    Known{"tgkill", "sig", {2}},
    Known{"timerfd_settime", "flags", {1}},
};

}  // namespace

bool is_system_call(const std::string& name) {
  // Below 0: a pseudo call of another architecture.
  return ::seccomp_syscall_resolve_name(name.c_str()) >= 0;
}

std::optional<Argument> argument_of(std::string_view call, std::string_view name) {
  const auto known = std::ranges::find_if(
      kArguments, [&](const Known& each) { return each.call == call && each.argument == name; });
  if (known == kArguments.end()) return std::nullopt;
  return known->place;
}

std::optional<std::uint64_t> constant(std::string_view name) {
  // The signal that makes a vCPU leave the guest: SIGRTMIN of glibc, which keeps two of the kernel's for
  // itself.
  if (name == "SIGRTMIN") return static_cast<std::uint64_t>(SIGRTMIN);
  const auto known = std::ranges::find(kConstants, name, &Constant::name);
  if (known == kConstants.end()) return std::nullopt;
  return known->value;
}

}  // namespace mayfly::jailer::seccomp
