#include "cli/runtime_folder.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "cli/terminal.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

std::vector<std::string> candidates() {
  std::vector<std::string> parents;
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') parents.push_back(fmt::format("{}/mayfly", runtime));
  if (::geteuid() == 0) parents.emplace_back("/run/mayfly");
  parents.push_back(fmt::format("/tmp/mayfly-{}", ::geteuid()));
  return parents;
}

// In /tmp somebody else may have been there first: it must be a folder, ours, and closed to others.
Status make_private(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) return fail_errno(errno, "make {}", path);
  struct stat status {};
  if (::lstat(path.c_str(), &status) < 0) return fail_errno(errno, "look at {}", path);
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 0077) != 0) {
    return fail("{} is not a folder of yours that is closed to others; remove it", path);
  }
  return {};
}

void remove_folder(const std::string& path) {
  std::error_code ignored;  // gone already is as good
  std::filesystem::remove_all(path, ignored);
}

constexpr int kLinkInKeeper = 3;
constexpr int kTerminalInKeeper = 4;

// The keeper's life. Nothing of mayfly's must stay open in it: a pipeline would wait for it.
[[noreturn]] void keep(int link, const std::string& folder, int terminal) {
  const SavedModes modes(terminal);
  ::setsid();
  ::prctl(PR_SET_NAME, "mayfly-keeper");
  [[maybe_unused]] const int moved = ::chdir("/");
  ::dup2(link, kLinkInKeeper);
  const bool has_terminal = terminal >= 0 && ::dup2(terminal, kTerminalInKeeper) >= 0;
  ::syscall(SYS_close_range, (has_terminal ? kTerminalInKeeper : kLinkInKeeper) + 1, ~0U, 0);
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < kLinkInKeeper; ++fd) {
    if (null < 0 || ::dup2(null, fd) < 0) ::close(fd);
  }

  int vmm = -1;
  for (;;) {
    char byte = 0;
    iovec part{.iov_base = &byte, .iov_len = 1};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const ssize_t n = ::recvmsg(kLinkInKeeper, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    const cmsghdr* const header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_type == SCM_RIGHTS)
      std::memcpy(&vmm, CMSG_DATA(header), sizeof(vmm));
  }
  if (vmm >= 0) ::syscall(SYS_pidfd_send_signal, vmm, SIGKILL, nullptr, 0);
  if (has_terminal) modes.put_back(kTerminalInKeeper);
  remove_folder(folder);
  ::_exit(0);
}

}  // namespace

Result<RuntimeFolder> RuntimeFolder::create() {
  return create_below(candidates());
}

Result<RuntimeFolder> RuntimeFolder::create_below(const std::vector<std::string>& parents) {
  std::string reasons;
  const auto refuse = [&](const std::string& reason) { reasons += (reasons.empty() ? "" : "; ") + reason; };
  for (const std::string& parent : parents) {
    std::string path = parent + "/XXXXXX";
    if (path.size() + 1 + kLongestName >= sizeof(sockaddr_un::sun_path)) {
      refuse(parent + " is too long a path for a socket");
      continue;
    }
    if (const Status made = make_private(parent); !made) {
      refuse(made.error().message);
      continue;
    }
    if (::mkdtemp(path.data()) != nullptr) return RuntimeFolder(std::move(path));
    refuse(fail_errno(errno, "make a folder in {}", parent).error().message);
  }
  return fail("no folder for sockets ({}); set XDG_RUNTIME_DIR to a folder of yours", reasons);
}

RuntimeFolder::~RuntimeFolder() {
  if (!path_.empty()) remove_folder(path_);
}

Result<Keeper> Keeper::start(const std::string& folder, int terminal) {
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
    keep(theirs.get(), folder, terminal);
  }
  return Keeper(std::move(ours), pid);
}

Keeper::~Keeper() {
  link_.reset();
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
}

Status Keeper::watch_over(int pidfd) {
  char byte = 0;
  iovec part{.iov_base = &byte, .iov_len = 1};
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
  std::memcpy(CMSG_DATA(header), &pidfd, sizeof(pidfd));
  if (::sendmsg(link_.get(), &message, MSG_NOSIGNAL) < 0) return fail_errno(errno, "tell the keeper");
  return {};
}

}  // namespace mayfly::cli
