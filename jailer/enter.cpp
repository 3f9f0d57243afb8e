#include "jailer/enter.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "base/file.h"

namespace mayfly::jailer {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

Status enter_root(int root) {
  // The folder's mount once more, and what is mounted below the folder, as a tree of its own that is mounted
  // nowhere.
  const UniqueFd tree(::open_tree(
      root, "", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | static_cast<unsigned>(OPEN_TREE_CLOEXEC)));
  if (!tree.valid()) return fail_errno(errno, "clone the mount of the jail's folder (open_tree)");
  // No executable of the jail runs again, and no set-user-ID bit counts. Its device nodes do work, whatever
  // the folder's own mount says of them. The mounts the host makes later do not appear in it.
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
  attributes.attr_clr = MOUNT_ATTR_NODEV;
  attributes.propagation = MS_PRIVATE;
  if (::mount_setattr(tree.get(), "", AT_EMPTY_PATH | AT_RECURSIVE, &attributes, sizeof attributes) < 0) {
    if (errno == ENOSYS) return fail("a jail needs Linux 5.12 or newer (mount_setattr)");
    return fail_errno(errno, "set the attributes of the jail's mount (mount_setattr)");
  }
  if (::fchdir(tree.get()) < 0) return fail_errno(errno, "go into the jail's mount (fchdir)");
  if (::chroot(".") < 0) return fail_errno(errno, "make the jail's mount the root (chroot)");
  return {};
}

Result<UniqueFd> open_network_namespace(const char* path) {
  // Without waiting: it may be a FIFO.
  UniqueFd fd(::open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "--netns {}", path);
  const int type = ::ioctl(fd.get(), NS_GET_NSTYPE);
  if (type < 0) return fail("--netns {}: not a namespace", path);
  if (type != CLONE_NEWNET) return fail("--netns {}: a namespace, but not a network namespace", path);
  return fd;
}

Status join_network_namespace(int fd, const char* path) {
  if (::setns(fd, CLONE_NEWNET) < 0) return fail_errno(errno, "--netns {}: join the network namespace", path);
  return {};
}

}  // namespace mayfly::jailer
