// Limits, and giving up whatever a VMM has no use for.
#pragma once

#include "base/result.h"
#include "jailer/options.h"

namespace mayfly::jailer {

// Closes every descriptor but 0, 1, 2 and those of --pass-fd, which stay open across execve(2). None of these
// may be a folder: openat(2) leads from it to all of the host.
base::Status close_other_fds(const Options& options);

// Descriptors 0, 1 and 2 lead somewhere: to /dev/null where the caller closed them, so that no file of ours
// gets their number.
base::Status fill_standard_fds();

// --resource-limit, 2048 open files unless it says otherwise, and no core file.
base::Status set_limits(const Options& options);

// How early the kernel ends the VMM when memory is out.
base::Status set_oom_score(const Options& options);

// Becomes the user of the jail for good. What is left until execve(2), and gone with it, are this process's
// capabilities: with nothing inheritable, ambient, in the bounding set or due to user 0 they are lost there
// (capabilities(7), "Transformation of capabilities during execve()"), and a jailer whose execve(2) fails can
// still clear away.
base::Status drop_privileges(const Options& options);

// Whether the capabilities that are left count. They must not at execve(2): the process becomes undumpable
// there because it may not read its executable (no core, no ptrace(2) by others of its user), and a
// capability may read everything.
enum class Capabilities { kCount, kWait };
base::Status set_capabilities(Capabilities how);

}  // namespace mayfly::jailer
