// What may stand on the jailer's command line. Pure: nothing here looks at the host.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mayfly::jailer {

// FILE=VALUE for a file of a cgroup: "memory.max=256M".
struct CgroupSetting {
  std::string file;
  std::string value;

  // What comes before the first dot: the controller. "cgroup" for the files that every cgroup has.
  [[nodiscard]] std::string controller() const { return file.substr(0, file.find('.')); }
};

struct ResourceLimit {
  int resource = 0;  // as setrlimit(2) names it
  std::uint64_t value = 0;
};

// 1 to 64 letters, digits and dashes: nothing that means something in a path.
base::Status check_id(std::string_view id);

// The last component of the path: it names the jail's folder, the copy in it and its cgroup. 1 to 128
// letters, digits,
// ".", "_", "-" and "+", and no "." in front.
base::Result<std::string> executable_name(std::string_view path);

// A path without ".." components, which could lead anywhere once a folder before them is replaced.
base::Status check_plain_path(std::string_view path);

// A relative path of cgroups: "mayfly" or "machine.slice/vms".
base::Status check_parent_cgroup(std::string_view parent);

base::Result<CgroupSetting> parse_cgroup_setting(std::string_view text);

// fsize=BYTES or no-file=NUMBER.
base::Result<ResourceLimit> parse_resource_limit(std::string_view text);

// A number from `least` to `most`, in decimal digits alone.
base::Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t least, std::uint64_t most);

// A user's or group's number. Names are not looked up (that would read the host's files in a privileged
// program), and 4294967295 is no user: chown(2) and setresuid(2) take it for "leave as it is".
base::Result<std::uint32_t> parse_user(std::string_view text);

}  // namespace mayfly::jailer
