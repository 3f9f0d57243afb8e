#include "jailer/cleanup.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "jailer/checks.h"

namespace mayfly::jailer {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr int kDeepest = 64;  // folders in folders; a VM cannot make any in its jail

struct CloseFolder {
  void operator()(DIR* folder) const { ::closedir(folder); }
};

// The names in a folder, without "." and "..".
Result<std::vector<std::string>> names_in(int folder, const std::string& path) {
  UniqueFd again(::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!again.valid()) return fail_errno(errno, "open {}", path);
  const std::unique_ptr<DIR, CloseFolder> stream(::fdopendir(again.get()));
  if (!stream) return fail_errno(errno, "read the folder {}", path);
  static_cast<void>(again.release());  // the stream's now
  std::vector<std::string> names;
  while (const dirent* const entry = ::readdir(stream.get())) {
    const std::string name = static_cast<const char*>(entry->d_name);
    if (name != "." && name != "..") names.push_back(name);
  }
  return names;
}

// A folder in another one: no symbolic link, and nothing that is mounted there, which is somebody's data.
Result<UniqueFd> open_below(int parent, const std::string& name, const std::string& path) {
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_NO_XDEV | RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, parent, name.c_str(), &how, sizeof how)));
  if (fd.valid()) return fd;
  if (errno == EXDEV) return fail("something is mounted on {}; unmount it first", path);
  return fail_errno(errno, "open {}", path);
}

// What is in the folder; the folder itself stays.
Status empty_folder(int folder, const std::string& path, int depth) {
  if (depth > kDeepest) return fail("{}: more than {} folders in each other", path, kDeepest);
  for (const std::string& name : TRY(names_in(folder, path))) {
    const std::string below = path + "/" + name;
    if (::unlinkat(folder, name.c_str(), 0) == 0) continue;
    if (errno == EBUSY) return fail("something is mounted on {}; unmount it first", below);
    if (errno != EISDIR && errno != EPERM) return fail_errno(errno, "remove {}", below);
    const UniqueFd inner = TRY(open_below(folder, name, below));
    TRY(empty_folder(inner.get(), below, depth + 1));
    if (::unlinkat(folder, name.c_str(), AT_REMOVEDIR) < 0) return fail_errno(errno, "remove {}", below);
  }
  return {};
}

// A process whose root folder is the jail's; by device and inode, because its mount of the folder is one of
// its own.
Status check_nobody_in(int root, const std::string& path) {
  struct stat jail {};
  if (::fstat(root, &jail) < 0) return fail_errno(errno, "look at {}", path);
  const UniqueFd proc = TRY(base::open_file("/proc", O_RDONLY | O_DIRECTORY));
  for (const std::string& name : TRY(names_in(proc.get(), "/proc"))) {
    if (!parse_number(name, 1, 1U << 30U)) continue;
    struct stat its {};
    if (::fstatat(proc.get(), (name + "/root").c_str(), &its, 0) < 0) continue;
    if (its.st_dev == jail.st_dev && its.st_ino == jail.st_ino) {
      return fail("process {} runs in the jail {}; end it first", name, path);
    }
  }
  return {};
}

// Each line of the file is a cgroup that was made for this jail and ends in its id.
Status remove_cgroups(int own, const std::string& id, const std::string& path) {
  const UniqueFd file(::openat(own, "cgroups", O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!file.valid()) return {};  // it had none
  struct stat what {};
  if (::fstat(file.get(), &what) < 0 || what.st_uid != ::geteuid() || !S_ISREG(what.st_mode) ||
      what.st_size > 65536) {
    return fail("{}/cgroups is not the jailer's", path);
  }
  std::string text(static_cast<std::size_t>(what.st_size), '\0');
  TRY(base::read_exactly_at(file.get(), std::as_writable_bytes(std::span(text)), 0));
  for (std::size_t start = 0; start < text.size();) {
    const std::size_t end = std::min(text.find('\n', start), text.size());
    const std::string cgroup = text.substr(start, end - start);
    start = end + 1;
    struct statfs where {};
    if (::statfs(cgroup.c_str(), &where) < 0) continue;  // gone already
    const bool cgroups = where.f_type == CGROUP2_SUPER_MAGIC || where.f_type == CGROUP_SUPER_MAGIC;
    if (!cgroups || !cgroup.ends_with("/" + id))
      return fail("{}/cgroups names {}, which is no cgroup of it", path, cgroup);
    if (::rmdir(cgroup.c_str()) == 0 || errno == ENOENT) continue;
    if (errno == EBUSY) return fail("the cgroup {} has processes; end them first", cgroup);
    return fail_errno(errno, "remove the cgroup {}", cgroup);
  }
  return {};
}

Status remove_jail(int name_folder, const std::string& id, const std::string& path) {
  const UniqueFd own = TRY(open_below(name_folder, id, path));
  const UniqueFd root(::openat(own.get(), "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (root.valid()) TRY(check_nobody_in(root.get(), path));
  TRY(remove_cgroups(own.get(), id, path));
  TRY(empty_folder(own.get(), path, 0));
  if (::unlinkat(name_folder, id.c_str(), AT_REMOVEDIR) < 0) return fail_errno(errno, "remove {}", path);
  return {};
}

}  // namespace

Status clean_up(const Options& options) {
  const UniqueFd base = TRY(base::open_file(options.base, O_RDONLY | O_DIRECTORY));
  std::vector<std::string> names = {options.exec_name};
  if (options.exec_name.empty()) names = TRY(names_in(base.get(), options.base));
  bool found = false;
  for (const std::string& name : names) {
    const UniqueFd folder(
        ::openat(base.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder.valid()) continue;
    const std::string& id = options.cleanup_id;
    struct stat what {};
    if (::fstatat(folder.get(), id.c_str(), &what, AT_SYMLINK_NOFOLLOW) < 0) continue;
    found = true;
    TRY(remove_jail(folder.get(), id, fmt::format("{}/{}/{}", options.base, name, id)));
  }
  if (!found) return fail("there is no jail {} in {}", options.cleanup_id, options.base);
  return {};
}

}  // namespace mayfly::jailer
