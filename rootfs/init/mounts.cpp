#include "rootfs/init/mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <string_view>

#include "rootfs/init/console.h"
#include "rootfs/init/text.h"

namespace mayfly::init {
namespace {

constexpr unsigned long kUsual = MS_NOSUID | MS_NODEV;
constexpr unsigned long kInert = kUsual | MS_NOEXEC;

struct Mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* options;
  bool missed;  // programs will miss it: say when it is not there
};

constexpr Mount kProc{"proc", "/proc", kInert, nullptr, true};
constexpr Mount kDev{"devtmpfs", "/dev", MS_NOSUID, "mode=755", true};
constexpr Mount kTmp{"tmpfs", "/tmp", kUsual, "mode=1777", false};
constexpr Mount kRun{"tmpfs", "/run", kUsual, "mode=755", false};
constexpr std::array kOthers{
    Mount{"sysfs", "/sys", kInert, nullptr, true},
    Mount{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=620,gid=5,ptmxmode=666", false},
    Mount{"tmpfs", "/dev/shm", kUsual, "mode=1777", false},
    Mount{"cgroup2", "/sys/fs/cgroup", kInert, nullptr, false},
};

bool mount_at(const Mount& what) {
  // Most of the time it is there, or nothing can be made there: both cost less than a mount that fails.
  [[maybe_unused]] const int made = ::mkdir(what.target, 0755);
  if (::mount(what.type, what.target, what.type, what.flags, what.options) == 0) return true;
  // EBUSY: the kernel was first.
  if (errno == EBUSY) return true;
  if (what.missed) complain_errno(errno, {"cannot mount ", what.target});
  return false;
}

void link_at(const char* target, const char* name) {
  [[maybe_unused]] const int linked = ::symlink(target, name);
}

// An overlay over the root, its upper layer a tmpfs, becomes the new root.
bool enter_scratch_layer() {
  // The tmpfs needs a folder to be mounted on, which the overlay's lower layer then does not see. The last
  // ones exist wherever this program could be started.
  static constexpr std::array<const char*, 5> kPlaces{"/run", "/tmp", "/mnt", "/sbin", "/dev"};
  const char* place = nullptr;
  for (const char* const each : kPlaces) {
    if (::mount("tmpfs", each, "tmpfs", kUsual, "mode=755") != 0) continue;
    place = each;
    break;
  }
  if (place == nullptr || ::chdir(place) != 0) return false;
  if (::mkdir("upper", 0755) != 0 || ::mkdir("work", 0755) != 0 || ::mkdir("root", 0755) != 0) return false;
  std::array<char, 128> options;
  join_text(options, {"lowerdir=/,upperdir=", place, "/upper,workdir=", place, "/work"});
  if (::mount("overlay", "root", "overlay", 0, options.data()) != 0) return false;
  if (::chdir("root") != 0) return false;
  // The kernel mounted /dev before it started us, if the image has such a folder.
  [[maybe_unused]] const int moved = ::mount("/dev", "dev", nullptr, MS_MOVE, nullptr);
  if (::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0) return false;
  return ::chroot(".") == 0 && ::chdir("/") == 0;
}

bool set_root_mode(RootMode mode) {
  switch (mode) {
    case RootMode::kScratch:
      return enter_scratch_layer();
    case RootMode::kWritable:
      return ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_NOATIME, nullptr) == 0;
    case RootMode::kReadOnly:
    case RootMode::kAsIs:
      return true;
  }
  return true;
}

// In the scratch layer these are plain folders, which is as good and costs no mount.
void make_temporary_folders(RootMode mode) {
  if (mode != RootMode::kScratch) {
    mount_at(kRun);
    mount_at(kTmp);
    return;
  }
  if (::mkdir("/tmp", 0777) == 0) [[maybe_unused]]
    const int changed = ::chmod("/tmp", 01777);
  [[maybe_unused]] const int made = ::mkdir("/run", 0755);
}

bool is_character_device(const char* path) {
  struct stat found {};
  return ::stat(path, &found) == 0 && S_ISCHR(found.st_mode);
}

// Takes the place of what open_standard_streams() put there.
void reopen_console() {
  struct stat now {};
  if (::fstat(STDERR_FILENO, &now) == 0 && S_ISCHR(now.st_mode)) return;
  const int fd = ::open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (fd < 0) return;
  for (int standard = STDIN_FILENO; standard <= STDERR_FILENO; ++standard) ::dup2(fd, standard);
  ::close(fd);
}

}  // namespace

void open_standard_streams() {
  if (::fcntl(STDERR_FILENO, F_GETFD) >= 0) return;
  // The kernel found no console. Anything will do until there is one.
  while (::open("/", O_RDONLY | O_DIRECTORY) < STDERR_FILENO) {
  }
}

bool mount_all(RootMode mode) {
  const bool good = set_root_mode(mode);
  const int error = errno;
  if (!is_character_device("/dev/null")) mount_at(kDev);
  reopen_console();
  if (!good) {
    complain_errno(error, {mode == RootMode::kScratch ? "cannot put a scratch layer over the root file system"
                                                      : "cannot make the root file system writable"});
    return false;
  }
  mount_at(kProc);
  for (const Mount& each : kOthers) mount_at(each);
  link_at("/proc/self/fd", "/dev/fd");
  link_at("/proc/self/fd/0", "/dev/stdin");
  link_at("/proc/self/fd/1", "/dev/stdout");
  link_at("/proc/self/fd/2", "/dev/stderr");
  make_temporary_folders(mode);
  return true;
}

}  // namespace mayfly::init
