#include "jailer/cgroup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
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

constexpr const char* kCgroupFolder = "/sys/fs/cgroup";
constexpr std::size_t kLongestFile = 65536;

bool is_mounted_at(const std::string& path, long magic) {
  struct statfs what {};
  return ::statfs(path.c_str(), &what) == 0 && what.f_type == magic;
}

// The words of `text` between `separator`s.
std::vector<std::string_view> words(std::string_view text, char separator) {
  std::vector<std::string_view> found;
  while (!text.empty()) {
    const std::size_t end = text.find(separator);
    const std::string_view word = text.substr(0, end);
    if (!word.empty()) found.push_back(word);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return found;
}

bool contains(const std::vector<std::string_view>& list, std::string_view word) {
  return std::ranges::find(list, word) != list.end();
}

Result<std::string> read_at(int folder, const char* name, const std::string& path) {
  const UniqueFd fd(::openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "open {}/{}", path, name);
  std::string text(kLongestFile, '\0');
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  if (n < 0) return fail_errno(errno, "read {}/{}", path, name);
  text.resize(static_cast<std::size_t>(n));
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

// A cgroup's file takes a value by one write(2).
Status write_at(int folder, const std::string& name, std::string_view value, const std::string& path) {
  const UniqueFd fd(::openat(folder, name.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return fail("the cgroup {} has no file {}", path, name);
  if (!fd.valid()) return fail_errno(errno, "open {}/{}", path, name);
  if (::write(fd.get(), value.data(), value.size()) < 0) {
    return fail_errno(errno, "write \"{}\" into {}/{}", value, path, name);
  }
  return {};
}

Result<UniqueFd> open_cgroup(const std::string& path) {
  return base::open_file(path, O_RDONLY | O_DIRECTORY);  // systemd links "cpu" to "cpu,cpuacct"
}

// mkdir(2) of `name` in an open cgroup, unless it is there; then it is opened.
Result<UniqueFd> make_cgroup(int parent, const std::string& name, const std::string& path, Undo& undo) {
  if (::mkdirat(parent, name.c_str(), 0755) == 0) {
    TRY(undo.made_folder(parent, name));
  } else if (errno != EEXIST) {
    return fail_errno(errno, "make the cgroup {}", path);
  }
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "open the cgroup {}", path);
  return fd;
}

std::string parent_of(const Options& options) {
  return options.parent_cgroup.empty() ? options.exec_name : options.parent_cgroup;
}

// Version 1's cpuset starts without a CPU and without memory, and nothing can join it so; it gets what its
// parent has.
Status inherit_cpuset(int parent, int folder, const std::string& path) {
  for (const char* const name : {"cpuset.cpus", "cpuset.mems"}) {
    if (!TRY(read_at(folder, name, path)).empty()) continue;
    const std::string of_parent = TRY(read_at(parent, name, path + "/.."));
    TRY(write_at(folder, name, of_parent, path));
  }
  return {};
}

// Version 2: a cgroup's children have a controller's files once it says so.
Status enable_below(int folder, const std::vector<std::string>& controllers, const std::string& path) {
  const std::string available = TRY(read_at(folder, "cgroup.controllers", path));
  const std::string enabled = TRY(read_at(folder, "cgroup.subtree_control", path));
  for (const std::string& controller : controllers) {
    if (contains(words(enabled, ' '), controller)) continue;
    if (!contains(words(available, ' '), controller)) {
      return fail("the cgroup {} has no controller \"{}\", only: {}", path, controller,
                  available.empty() ? "none" : available);
    }
    auto written = write_at(folder, "cgroup.subtree_control", "+" + controller, path);
    if (written) continue;
    if (written.error().code == EBUSY) {
      return fail(
          "the cgroup {} has processes of its own, so that no controller can be enabled below it; choose "
          "another "
          "--parent-cgroup",
          path);
    }
    return written;
  }
  return {};
}

std::vector<std::string> controllers_of(const Options& options) {
  std::vector<std::string> found;
  for (const CgroupSetting& setting : options.cgroups) {
    const std::string controller = setting.controller();
    if (controller != "cgroup" && std::ranges::find(found, controller) == found.end())
      found.push_back(controller);
  }
  return found;
}

// This process's cgroup in a hierarchy, by /proc/self/cgroup: "ID:CONTROLLERS:PATH".
Result<std::string> current_cgroup(int version, const std::string& controller) {
  const std::string text = TRY(base::read_file("/proc/self/cgroup"));
  for (const std::string_view line : words(text, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view list = line.substr(first + 1, second - first - 1);
    if (version == 2 ? list.empty() : contains(words(list, ','), controller)) {
      return std::string(line.substr(second + 1));
    }
  }
  return fail("/proc/self/cgroup does not say where this process is");
}

Result<int> version_for(const Options& options) {
  if (options.cgroup_version) return *options.cgroup_version;
  if (is_mounted_at(kCgroupFolder, CGROUP2_SUPER_MAGIC)) return 2;
  const std::vector<std::string> controllers = controllers_of(options);
  if (controllers.empty()) return 2;
  if (find_cgroup_mount(1, controllers.front())) return 1;
  if (find_cgroup_mount(2, {})) return 2;
  return fail("--cgroup: this host has no cgroups mounted, neither version 1 with {} nor version 2",
              controllers.front());
}

}  // namespace

std::string cgroup_mount_in(std::string_view mountinfo, int version, const std::string& controller) {
  for (const std::string_view line : words(mountinfo, '\n')) {
    // proc(5): … (5) mount point … "-" type source super-options
    const std::size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const std::vector<std::string_view> before = words(line.substr(0, dash), ' ');
    const std::vector<std::string_view> after = words(line.substr(dash + 3), ' ');
    if (before.size() < 5 || after.size() < 3) continue;
    const bool fits = version == 2 ? after[0] == "cgroup2"
                                   : after[0] == "cgroup" && contains(words(after[2], ','), controller);
    if (fits) return std::string(before[4]);
  }
  return {};
}

Result<std::string> find_cgroup_mount(int version, const std::string& controller) {
  const std::string folder = kCgroupFolder;
  if (version == 1) {
    if (is_mounted_at(folder + "/" + controller, CGROUP_SUPER_MAGIC)) return folder + "/" + controller;
  } else {
    for (const std::string& usual : {folder, folder + "/unified"}) {
      if (is_mounted_at(usual, CGROUP2_SUPER_MAGIC)) return usual;
    }
  }
  const std::string mountinfo = TRY(base::read_file("/proc/self/mountinfo"));
  std::string found = cgroup_mount_in(mountinfo, version, controller);
  // What it lists may be covered by another mount.
  if (!found.empty() && is_mounted_at(found, version == 1 ? CGROUP_SUPER_MAGIC : CGROUP2_SUPER_MAGIC))
    return found;
  if (version == 2) return fail("this host has no cgroup version 2 tree mounted");
  return fail("this host has no cgroup version 1 hierarchy with the controller \"{}\" mounted", controller);
}

Status Cgroups::add_v1(const Options& options, const CgroupSetting& setting, Undo& undo) {
  const std::string controller = setting.controller();
  auto known = std::ranges::find(places_, controller, &Place::controller);
  if (known == places_.end()) {
    std::string path = TRY(find_cgroup_mount(1, controller));
    UniqueFd here = TRY(open_cgroup(path));
    const std::string below = parent_of(options) + "/" + options.id;
    for (const std::string_view part : words(below, '/')) {
      path += "/" + std::string(part);
      UniqueFd next = TRY(make_cgroup(here.get(), std::string(part), path, undo));
      if (controller == "cpuset") TRY(inherit_cpuset(here.get(), next.get(), path));
      here = std::move(next);
    }
    own_.push_back(path);
    places_.push_back({path, std::move(here), 1, controller});
    known = std::prev(places_.end());
  }
  return write_at(known->folder.get(), setting.file, setting.value, known->path);
}

Status Cgroups::add_v2(const Options& options, Undo& undo) {
  const std::vector<std::string> controllers = controllers_of(options);
  std::string path = TRY(find_cgroup_mount(2, {}));
  UniqueFd here = TRY(open_cgroup(path));
  const bool own = !options.cgroups.empty();
  const std::string parent = parent_of(options);
  for (const std::string_view part : words(parent, '/')) {
    if (own) TRY(enable_below(here.get(), controllers, path));
    path += "/" + std::string(part);
    if (own) {
      here = TRY(make_cgroup(here.get(), std::string(part), path, undo));
    } else {
      here = TRY(open_cgroup(path));  // --parent-cgroup alone: one that is there
    }
  }
  if (own) {
    // What was enabled for one jail stays enabled: others may rely on it by the time this jail fails.
    TRY(enable_below(here.get(), controllers, path));
    path += "/" + options.id;
    here = TRY(make_cgroup(here.get(), options.id, path, undo));
    own_.push_back(path);
    for (const CgroupSetting& setting : options.cgroups) {
      TRY(write_at(here.get(), setting.file, setting.value, path));
    }
  }
  clone_into_.reset(::fcntl(here.get(), F_DUPFD_CLOEXEC, 0));
  if (!clone_into_.valid()) return fail_errno(errno, "duplicate a file descriptor");
  places_.push_back({path, std::move(here), 2, {}});
  return {};
}

Result<Cgroups> Cgroups::create(const Options& options, Undo& undo) {
  Cgroups cgroups;
  if (!options.has_cgroup()) return cgroups;
  const int version = TRY(version_for(options));
  if (version == 2) {
    TRY(cgroups.add_v2(options, undo));
    return cgroups;
  }
  for (const CgroupSetting& setting : options.cgroups) TRY(cgroups.add_v1(options, setting, undo));
  return cgroups;
}

Status Cgroups::join(bool cloned, Undo& undo) const {
  for (const Place& place : places_) {
    if (cloned && place.version == 2) continue;
    // To go back there, should the jail fail: a cgroup that has a process cannot be removed.
    const std::string before = TRY(current_cgroup(place.version, place.controller));
    const std::string mount = TRY(find_cgroup_mount(place.version, place.controller));
    auto procs = base::open_file(mount + before + "/cgroup.procs", O_WRONLY);
    TRY(write_at(place.folder.get(), "cgroup.procs", "0", place.path));
    if (procs) undo.left_cgroup(std::move(*procs));
  }
  return {};
}

}  // namespace mayfly::jailer
