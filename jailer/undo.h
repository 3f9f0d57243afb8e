// What was made, so that a jail that cannot be finished leaves nothing behind.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::jailer {

// Undoes what was noted, the latest first, when it goes out of scope before keep(). It works by folders that
// are open, so that neither a chroot nor a folder that was moved leads it elsewhere.
class Undo {
 public:
  Undo() = default;
  ~Undo();
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;

  // `name` in `folder` was made: a folder that is empty again by the time of the undoing, or a file.
  base::Status made_folder(int folder, const std::string& name);
  base::Status made_file(int folder, const std::string& name);
  // The process left a cgroup: `procs` is the file cgroup.procs of where it was.
  void left_cgroup(base::UniqueFd procs);

  // Nothing is undone any more: the jail is whole, or another process undoes.
  void keep() { entries_.clear(); }

  // The folders in which something would be removed.
  [[nodiscard]] std::vector<int> folders() const;

 private:
  struct Entry {
    base::UniqueFd fd;  // the folder, or cgroup.procs
    std::string name;   // empty: cgroup.procs
    int flags = 0;      // for unlinkat(2)
  };
  base::Status made(int folder, const std::string& name, int flags);
  std::vector<Entry> entries_;
};

}  // namespace mayfly::jailer
