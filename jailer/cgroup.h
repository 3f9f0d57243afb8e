// The VMM's cgroup: <hierarchy>/PARENT/ID, with the values that it was given. cgroups(7), and the kernel's
// cgroup-v1 and cgroup-v2 documents.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "jailer/options.h"
#include "jailer/undo.h"

namespace mayfly::jailer {

// Where the hierarchy is mounted: version 2's, or version 1's with this controller. Looks at the usual places
// first and then at /proc/self/mountinfo, so that a host with many mounts costs nothing more.
base::Result<std::string> find_cgroup_mount(int version, const std::string& controller);

// The same in a text as /proc/self/mountinfo has it; empty where there is none.
std::string cgroup_mount_in(std::string_view mountinfo, int version, const std::string& controller);

class Cgroups {
 public:
  // Makes the cgroups and sets their values; version 1 has one for each hierarchy. Nothing joins them yet.
  static base::Result<Cgroups> create(const Options& options, Undo& undo);

  // For clone3(2)'s CLONE_INTO_CGROUP, which saves moving a process, for which the kernel stops all forks;
  // -1: none.
  [[nodiscard]] int clone_into() const { return clone_into_.get(); }
  // Moves this process into the cgroups of version 1, and unless it was cloned there of version 2. Notes
  // where it was.
  base::Status join(bool cloned, Undo& undo) const;
  // The folders made that are this jail's alone, for --cleanup.
  [[nodiscard]] const std::vector<std::string>& own() const { return own_; }

 private:
  struct Place {
    std::string path;
    base::UniqueFd folder;
    int version = 1;
    std::string controller;
  };
  base::Status add_v1(const Options& options, const CgroupSetting& setting, Undo& undo);
  base::Status add_v2(const Options& options, Undo& undo);

  std::vector<Place> places_;
  base::UniqueFd clone_into_;
  std::vector<std::string> own_;
};

}  // namespace mayfly::jailer
