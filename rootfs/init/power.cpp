#include "rootfs/init/power.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string_view>

#include "base/unique_fd.h"
#include "rootfs/init/buffer.h"
#include "rootfs/init/poll_set.h"

namespace mayfly::init {
namespace {

constexpr std::uint64_t kTimeToEnd = 2 * kSecond;

// True once this process has no children: then there is no other process, for orphans become our children.
bool reap_all() {
  for (;;) {
    const pid_t pid = ::waitpid(-1, nullptr, WNOHANG);
    if (pid < 0 && errno == ECHILD) return true;
    if (pid <= 0 && errno != EINTR) return false;
  }
}

// Sends the signal to every other process; true when all of them ended in time.
bool end_processes(int signal) {
  if (reap_all()) return true;
  ::kill(-1, signal);
  sigset_t children;
  ::sigemptyset(&children);
  ::sigaddset(&children, SIGCHLD);
  const std::uint64_t deadline = now_ns() + kTimeToEnd;
  for (std::uint64_t now = now_ns(); now < deadline; now = now_ns()) {
    if (reap_all()) return true;
    const std::uint64_t left = deadline - now;
    const timespec wait{.tv_sec = static_cast<time_t>(left / kSecond),
                        .tv_nsec = static_cast<long>(left % kSecond)};
    ::sigtimedwait(&children, nullptr, &wait);
  }
  return reap_all();
}

// One mount of /proc/self/mounts: "SOURCE TARGET TYPE OPTIONS 0 0".
void settle_mount(char* line) {
  char* rest = line;
  const char* const source = ::strsep(&rest, " ");
  const char* const target = ::strsep(&rest, " ");
  if (target == nullptr || std::strncmp(source, "/dev/", 5) != 0) return;
  if (std::strcmp(target, "/") != 0 && ::umount2(target, 0) == 0) return;
  ::mount(nullptr, target, nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
}

// Drives only, the last mounted first. The kernel writes escapes for blanks in names; such a mount has been
// synced, and its journal makes up for the rest.
void settle_mounts() {
  const base::UniqueFd file(::open("/proc/self/mounts", O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return;
  constexpr std::size_t kLongest = 256U << 10U;
  Buffer text = Buffer::allocate(kLongest + 1);
  if (!text.valid()) return;
  char* const begin = text.bytes().data();
  std::size_t length = 0;
  while (length < kLongest) {
    const ssize_t count = ::read(file.get(), begin + length, kLongest - length);
    if (count <= 0) break;
    length += static_cast<std::size_t>(count);
  }
  while (length > 0) {
    begin[length - 1] = '\0';  // the newline of the last line that is left
    const std::string_view left(begin, length - 1);
    const std::size_t newline = left.rfind('\n');
    const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
    settle_mount(begin + start);
    length = start;
  }
}

}  // namespace

void end_machine() {
  sigset_t all;
  ::sigfillset(&all);
  ::sigprocmask(SIG_BLOCK, &all, nullptr);
  if (!end_processes(SIGTERM)) end_processes(SIGKILL);
  ::sync();
  settle_mounts();
  ::reboot(RB_AUTOBOOT);
  // Only a kernel without a way to reset gets here.
  for (;;) ::pause();
}

}  // namespace mayfly::init
