#include "jailer/userns.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/file.h"

namespace mayfly::jailer {

using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

// Zero or not, of a number in /proc/sys; true where there is no such file.
bool allows(const char* file, bool when_not_zero) {
  const auto text = base::read_file(file);
  return !text || text->starts_with('0') != when_not_zero;
}

// Which setting of the host it was that forbids user namespaces.
std::unexpected<base::Error> refused(int code, const char* step) {
  if (!allows("/proc/sys/user/max_user_namespaces", true)) {
    return fail("--userns: this host allows no user namespaces (sysctl user.max_user_namespaces is 0)");
  }
  if (!allows("/proc/sys/kernel/unprivileged_userns_clone", true)) {
    return fail(
        "--userns: this host allows user namespaces to root only (sysctl kernel.unprivileged_userns_clone is "
        "0)");
  }
  if (!allows("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", false)) {
    return fail(
        "--userns: AppArmor restricts user namespaces here (sysctl "
        "kernel.apparmor_restrict_unprivileged_userns is 1, and "
        "mayfly-jailer has no profile that allows them)");
  }
  if (code == EPERM) {
    return fail(
        "--userns: {} was refused; in a chroot, or where a container's seccomp filter forbids it, it cannot "
        "work",
        step);
  }
  return fail_errno(code, "--userns: {}", step);
}

Status write_to(const char* file, const std::string& text) {
  const UniqueFd fd(::open(file, O_WRONLY | O_CLOEXEC));
  if (!fd.valid() || ::write(fd.get(), text.data(), text.size()) < 0) {
    return refused(errno, (std::string("writing ") + file).c_str());
  }
  return {};
}

constexpr unsigned kCloneFlags =
    AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | static_cast<unsigned>(OPEN_TREE_CLOEXEC);

// The mount that `name` in `folder` is on (empty: that `folder` itself is), from there on down, attached to
// nothing.
Result<UniqueFd> clone_mount(int folder, const char* name, std::uint64_t attributes) {
  UniqueFd tree(::open_tree(folder, name, kCloneFlags | AT_SYMLINK_NOFOLLOW));
  if (!tree.valid())
    return fail_errno(errno, "clone the mount of {} (open_tree)", *name != '\0' ? name : "the jail");
  mount_attr wanted{};
  wanted.attr_set = attributes;
  wanted.propagation = MS_PRIVATE;
  if (::mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &wanted, sizeof wanted) < 0) {
    if (errno == ENOSYS) return fail("a jail needs Linux 5.12 or newer (mount_setattr)");
    return fail_errno(errno, "set the attributes of the mount of {}", *name != '\0' ? name : "the jail");
  }
  return tree;
}

Status attach(int tree, int folder, const char* name) {
  const unsigned flags = MOVE_MOUNT_F_EMPTY_PATH | (*name != '\0' ? 0U : MOVE_MOUNT_T_EMPTY_PATH);
  if (::move_mount(tree, "", folder, name, flags) < 0) {
    return fail_errno(errno, "mount {} in the jail (move_mount)", *name != '\0' ? name : "its root");
  }
  return {};
}

// A read-only mount of what is there, on top of it; it can be neither replaced nor removed then.
Status protect(int tree, const std::string& name) {
  if (::faccessat(tree, name.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) < 0)
    return {};  // there is no pid file without a child
  const UniqueFd again =
      TRY(clone_mount(tree, name.c_str(), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  return attach(again.get(), tree, name.c_str());
}

Status mount_devices(int tree) {
  const UniqueFd dev(::openat(tree, "dev", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!dev.valid()) return fail_errno(errno, "open /dev of the jail");
  for (const Device& device : kDevices) {
    const std::string place =
        *device.folder != '\0' ? fmt::format("{}/{}", device.folder, device.name) : device.name;
    if (::faccessat(dev.get(), place.c_str(), F_OK, AT_SYMLINK_NOFOLLOW) < 0) continue;
    const UniqueFd node = TRY(clone_mount(AT_FDCWD, device.host, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
    TRY(attach(node.get(), dev.get(), place.c_str()));
  }
  return {};
}

}  // namespace

Status enter_user_namespace(const Options& options) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC) < 0)
    return refused(errno, "making a user namespace");
  TRY(write_to("/proc/self/uid_map", fmt::format("{} {} 1", options.uid, uid)));
  // user_namespaces(7): a group may be mapped without root's help once setgroups(2) is denied.
  TRY(write_to("/proc/self/setgroups", "deny"));
  TRY(write_to("/proc/self/gid_map", fmt::format("{} {} 1", options.gid, gid)));
  // Not in a namespace of this one, either: with its capabilities, more of the kernel could be attacked.
  // Where /proc/sys cannot be written to, the VMM's system call filters alone see to it.
  static_cast<void>(write_to("/proc/sys/user/max_user_namespaces", "0"));
  return {};
}

Status enter_root_in_namespace(const Folder& folder, const Options& options) {
  const UniqueFd tree =
      TRY(clone_mount(folder.root(), "", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  TRY(attach(tree.get(), folder.root(), ""));
  TRY(protect(tree.get(), options.exec_name));
  TRY(protect(tree.get(), options.exec_name + ".pid"));
  TRY(protect(tree.get(), "dev"));
  TRY(mount_devices(tree.get()));
  if (::fchdir(tree.get()) < 0) return fail_errno(errno, "go into the jail's mount (fchdir)");
  // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one, and is taken away.
  if (::syscall(SYS_pivot_root, ".", ".") < 0)
    return fail_errno(errno, "make the jail's mount the root (pivot_root)");
  if (::umount2(".", MNT_DETACH) < 0) return fail_errno(errno, "leave the host's mounts (umount2)");
  if (::chdir("/") < 0) return fail_errno(errno, "go to the jail's root (chdir)");
  return {};
}

}  // namespace mayfly::jailer
