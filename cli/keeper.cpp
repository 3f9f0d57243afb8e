#include "cli/keeper.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cli/network_registry.h"
#include "cli/runtime_folder.h"
#include "cli/tap_network.h"
#include "cli/terminal.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr int kLinkInKeeper = 3;
constexpr int kTerminalInKeeper = 4;
constexpr int kLockInKeeper = 5;

// Each comes with a descriptor.
struct Message {
  enum class Kind : std::uint32_t { kProcess, kNetwork };
  Kind kind = Kind::kProcess;
  std::uint32_t slot = 0;  // kNetwork
};

struct Received {
  Message message;
  UniqueFd fd;
};

// False at the end of mayfly.
bool receive(int link, Received& out) {
  iovec part{.iov_base = &out.message, .iov_len = sizeof(out.message)};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t n = 0;
  do {
    n = ::recvmsg(link, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n <= 0) return false;
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  int fd = -1;
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
  out.fd.reset(fd);
  return true;
}

Status send(int link, const Message& content, int fd) {
  Message copy = content;
  iovec part{.iov_base = &copy, .iov_len = sizeof(copy)};
  alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (::sendmsg(link, &message, MSG_NOSIGNAL) < 0) return fail_errno(errno, "tell the keeper");
  return {};
}

// These become the only descriptors from kLinkInKeeper on; -1: there is none.
void keep_only(std::array<int, 3> from) {
  // First out of the way of the numbers that they get.
  for (int& fd : from) fd = fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, kLockInKeeper + 1);
  for (std::size_t i = 0; i < from.size(); ++i) {
    const int to = kLinkInKeeper + static_cast<int>(i);
    if (from[i] < 0 || ::dup2(from[i], to) < 0) ::close(to);
  }
  ::syscall(SYS_close_range, kLockInKeeper + 1, ~0U, 0);
}

// Nothing of mayfly's must stay open in the keeper: a pipeline would wait for it.
void let_go(int link, const Keeper::Charge& charge) {
  ::setsid();
  ::prctl(PR_SET_NAME, "mayfly-keeper");
  // It ends with mayfly, and not before: whoever ends both must not end it first.
  for (const int each : {SIGTERM, SIGINT, SIGHUP, SIGPIPE}) ::signal(each, SIG_IGN);
  [[maybe_unused]] const int moved = ::chdir("/");
  keep_only({link, charge.terminal, charge.lock});
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < kLinkInKeeper; ++fd) {
    if (null < 0 || ::dup2(null, fd) < 0) ::close(fd);
  }
}

// The keeper's life.
[[noreturn]] void keep(int link, const Keeper::Charge& charge) {
  const SavedModes modes(charge.terminal);
  let_go(link, charge);
  std::vector<UniqueFd> processes;
  std::optional<NetworkRegistry> registry;
  unsigned slot = 0;
  for (Received received; receive(kLinkInKeeper, received);) {
    if (!received.fd.valid()) continue;
    if (received.message.kind == Message::Kind::kProcess) {
      processes.push_back(std::move(received.fd));
    } else {
      slot = received.message.slot;
      registry.emplace(std::move(received.fd));
    }
  }
  for (const UniqueFd& process : processes) {
    ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  }
  if (charge.terminal >= 0) modes.put_back(kTerminalInKeeper);
  const bool good = !registry || remove_tap_network(*registry, slot);
  if (!charge.folder.empty()) remove_folder(charge.folder);
  ::_exit(good ? 0 : 1);
}

}  // namespace

Result<Keeper> Keeper::start(const Charge& charge) {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) < 0) {
    return fail_errno(errno, "create a socket pair");
  }
  UniqueFd ours(ends[0]);
  UniqueFd theirs(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(errno, "fork");
  if (pid == 0) {
    ours.reset();
    keep(theirs.get(), charge);
  }
  return Keeper(std::move(ours), pid);
}

Keeper::~Keeper() {
  link_.reset();
  int status = 0;
  if (pid_ > 0) ::waitpid(pid_, &status, 0);
  if (!registry_.valid() || status == 0) return;
  // Somebody killed it, or it met an error.
  NetworkRegistry registry(std::move(registry_));
  const Status removed = remove_tap_network(registry, slot_);
  if (!removed) fmt::print(stderr, "mayfly: {}\n", removed.error().message);
}

Status Keeper::watch_over(int pidfd) {
  return send(link_.get(), {.kind = Message::Kind::kProcess}, pidfd);
}

Status Keeper::watch_over_network(int registry, unsigned slot) {
  registry_.reset(::fcntl(registry, F_DUPFD_CLOEXEC, 3));
  if (!registry_.valid()) return fail_errno(errno, "duplicate a file descriptor");
  slot_ = slot;
  return send(link_.get(), {.kind = Message::Kind::kNetwork, .slot = slot}, registry);
}

}  // namespace mayfly::cli
