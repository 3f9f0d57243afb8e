// A jail without root: user_namespaces(7) gives its maker the capabilities that making one takes, over what
// is its own alone.
#pragma once

#include <string>

#include "base/result.h"
#include "jailer/folder.h"
#include "jailer/options.h"

namespace mayfly::jailer {

// Moves this process, which has one thread, into new user, mount and IPC namespaces, where it is options.uid
// and options.gid: the only user and group there, and the caller's own outside. No user namespace can be made
// in it. Where the host forbids this, the error says by which setting.
base::Status enter_user_namespace(const Options& options);

// What enter_root() does, in such a namespace. The user owns all of the jail's files, so its executable, its
// pid file and /dev are mounted read-only over themselves; the places of the devices get the host's.
//
// Here the host's mounts were copied by entering the namespace, which takes longer the more there are, and
// are left behind.
base::Status enter_root_in_namespace(const Folder& folder, const Options& options);

}  // namespace mayfly::jailer
