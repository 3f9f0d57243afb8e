// Going into the jail's folder, so that nothing else of the host's files can be reached.
#pragma once

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::jailer {

// Makes `root` (an open folder) this process's root and working directory; takes CAP_SYS_ADMIN.
//
// Not by a mount namespace: unshare(2) copies every mount of the host for it, one process at a time, only for
// pivot_root(2) to throw them away. The folder's mount is cloned instead (open_tree(2)); the clone is
// attached to nothing, so that ".." ends in it even for a process that could leave a chroot, mounts neither
// come in nor go out, and what is in it may be mounted otherwise than on the host: nosuid, noexec. What was
// mounted below the folder stays visible.
base::Status enter_root(int root);

// A network namespace by its path; anything else there is refused.
base::Status join_network_namespace(int fd, const char* path);
base::Result<base::UniqueFd> open_network_namespace(const char* path);

}  // namespace mayfly::jailer
