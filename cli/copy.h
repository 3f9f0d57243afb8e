// `mayfly cp`: files between this host and a machine.
#pragma once

#include <string>

#include "base/result.h"

namespace mayfly::cli {

// One end of a copy. `machine` is empty for this host.
struct CopyEnd {
  std::string machine;
  std::string path;
};
// "NAME:PATH", or a path of this host's: one that has a "/" before any ":" or no ":".
CopyEnd parse_copy_end(const std::string& text);

// Files and folders with all that is in them. Into a folder that exists; else the copy gets the target's
// name, whose folder exists. Exactly one end is a machine's.
base::Status copy_files(const CopyEnd& from, const CopyEnd& to);

// What a hostile guest may have sent into `folder`, after it was unpacked there: every entry must be below
// `name`, a regular file, a folder or a symbolic link; set-user-id and set-group-id bits are taken away. The
// error names what is none of these. Nothing outside of the folder is looked at or changed, wherever links
// lead.
base::Status check_unpacked(const std::string& folder, const std::string& name);

}  // namespace mayfly::cli
