#include "jailer/privileges.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>

#include "base/file.h"

namespace mayfly::jailer {

using base::fail_errno;
using base::Status;
using base::UniqueFd;

namespace {

constexpr rlim_t kOpenFiles = 2048;

Status set_limit(int resource, rlim_t value, const char* name) {
  const rlimit limit{.rlim_cur = value, .rlim_max = value};
  if (::setrlimit(static_cast<__rlimit_resource_t>(resource), &limit) < 0) {
    return fail_errno(errno, "set the resource limit {} to {}", name, value);
  }
  return {};
}

// No execve(2) of any user, root among them, grants a capability, and none of these bits can be taken back.
constexpr unsigned long kSecureBits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                      SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                      SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;

Status empty_bounding_set() {
  for (unsigned long capability = 0;; ++capability) {
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
    if (errno == EINVAL) return {};  // past the last that this kernel knows
    return fail_errno(errno, "take capability {} out of the bounding set", capability);
  }
}

using CapabilitySets = std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3>;

// capset(2) of what `change` makes of each half of this process's sets.
template <typename Change>
Status change_capabilities(const char* what, Change change) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  CapabilitySets sets{};
  if (::syscall(SYS_capget, &header, sets.data()) < 0) return fail_errno(errno, "read the capabilities");
  for (auto& half : sets) change(half);
  if (::syscall(SYS_capset, &header, sets.data()) < 0) return fail_errno(errno, "{}", what);
  return {};
}

Status check_no_folder(int fd) {
  struct stat what {};
  if (::fstat(fd, &what) == 0 && S_ISDIR(what.st_mode)) {
    return base::fail("descriptor {} is a folder, by which the VMM could leave the jail", fd);
  }
  return {};
}

}  // namespace

Status close_other_fds(const Options& options) {
  unsigned first = 3;
  for (const int fd : options.pass_fds) {
    const auto number = static_cast<unsigned>(fd);
    if (::fcntl(fd, F_SETFD, 0) < 0) return fail_errno(errno, "--pass-fd {}", fd);
    if (number > first && ::close_range(first, number - 1, 0) < 0)
      return fail_errno(errno, "close the other files");
    first = number + 1;
  }
  if (::close_range(first, UINT_MAX, 0) < 0) return fail_errno(errno, "close the other files");
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) TRY(check_no_folder(fd));
  for (const int fd : options.pass_fds) TRY(check_no_folder(fd));
  return {};
}

Status fill_standard_fds() {
  for (;;) {
    UniqueFd null(::open("/dev/null", O_RDWR));
    if (!null.valid()) return fail_errno(errno, "open /dev/null");
    if (null.get() > STDERR_FILENO) return {};
    static_cast<void>(null.release());  // it stays, as 0, 1 or 2
  }
}

Status set_limits(const Options& options) {
  TRY(set_limit(RLIMIT_CORE, 0, "core"));
  bool files = false;
  for (const ResourceLimit& limit : options.limits) {
    files = files || limit.resource == RLIMIT_NOFILE;
    TRY(set_limit(limit.resource, limit.value, limit.resource == RLIMIT_NOFILE ? "no-file" : "fsize"));
  }
  if (!files) TRY(set_limit(RLIMIT_NOFILE, kOpenFiles, "no-file"));
  return {};
}

Status set_oom_score(const Options& options) {
  constexpr const char* kFile = "/proc/self/oom_score_adj";
  int score = options.oom_score_adj.value_or(0);
  if (!options.oom_score_adj) {
    // A service that the kernel must spare hands that on to what it starts; a guest is not to be spared.
    const std::string now = TRY(base::read_file(kFile));
    int inherited = 0;
    std::from_chars(now.data(), now.data() + now.size(), inherited);
    if (inherited >= 0) return {};
    score = 0;
  }
  const UniqueFd fd = TRY(base::open_file(kFile, O_WRONLY));
  const std::string text = std::to_string(score);
  if (::write(fd.get(), text.data(), text.size()) < 0)
    return fail_errno(errno, "write {} into {}", text, kFile);
  return {};
}

Status drop_privileges(const Options& options) {
  // Nothing this process executes gains anything by a set-user-ID bit or a file's capabilities. Landlock and
  // seccomp rest on it too.
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return fail_errno(errno, "set no_new_privs");
  TRY(empty_bounding_set());
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) {
    return fail_errno(errno, "clear the ambient capabilities");
  }
  if (::prctl(PR_SET_SECUREBITS, kSecureBits, 0, 0, 0) < 0) return fail_errno(errno, "lock the secure bits");
  // A user namespace without root's help cannot change its groups; nothing that a group could open is visible
  // in the jail.
  if (!options.userns && ::setgroups(0, nullptr) < 0)
    return fail_errno(errno, "leave the supplementary groups");
  if (::setresgid(options.gid, options.gid, options.gid) < 0)
    return fail_errno(errno, "become group {}", options.gid);
  if (::setresuid(options.uid, options.uid, options.uid) < 0)
    return fail_errno(errno, "become user {}", options.uid);
  TRY(change_capabilities("clear the inheritable capabilities", [](auto& sets) { sets.inheritable = 0; }));
  // Nobody of the jail's user may look into this process until the executable, which cannot be read, sees to
  // that.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) return fail_errno(errno, "make this process undumpable");
  return {};
}

Status set_capabilities(Capabilities how) {
  return change_capabilities("set the effective capabilities", [how](auto& sets) {
    sets.effective = how == Capabilities::kCount ? sets.permitted : 0;
  });
}

}  // namespace mayfly::jailer
