#include "jailer/folder.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/file.h"

namespace mayfly::jailer {

using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr mode_t kOthersMayWrite = S_IWGRP | S_IWOTH;

Result<struct stat> stat_of(int fd, const std::string& path) {
  struct stat what {};
  if (::fstat(fd, &what) < 0) return fail_errno(errno, "look at {}", path);
  return what;
}

// Whoever may write in a folder may put another one in the place of what is in it.
Status check_owner(int fd, const std::string& path) {
  const struct stat what = TRY(stat_of(fd, path));
  if (what.st_uid != ::geteuid() && what.st_uid != 0) {
    return fail("{} belongs to user {}, who could change the jail while it is made", path, what.st_uid);
  }
  if ((what.st_mode & kOthersMayWrite) != 0 && (what.st_mode & S_ISVTX) == 0) {
    return fail("{} can be written to by others (mode {:o}), who could change the jail while it is made",
                path, what.st_mode & 07777U);
  }
  return {};
}

Result<UniqueFd> open_folder(int parent, const std::string& name, const std::string& path) {
  UniqueFd fd(::openat(parent, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.valid()) return fd;
  if (errno == ELOOP || errno == ENOTDIR) return fail("{} is not a folder, or is a symbolic link", path);
  return fail_errno(errno, "open {}", path);
}

// mkdir(2) unless it is there, then open it without following a symbolic link.
Result<UniqueFd> make_folder(int parent, const std::string& name, mode_t mode, const std::string& path,
                             Undo& undo) {
  if (::mkdirat(parent, name.c_str(), mode) == 0) {
    TRY(undo.made_folder(parent, name));
  } else if (errno != EEXIST) {
    return fail_errno(errno, "make the folder {}", path);
  }
  return open_folder(parent, name, path);
}

// The same for each component of a path whose symbolic links are the administrator's.
Result<UniqueFd> make_base(const std::string& base, Undo& undo) {
  UniqueFd here(::open(base.starts_with('/') ? "/" : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!here.valid()) return fail_errno(errno, "open the folder that {} starts from", base);
  for (std::size_t start = 0; start < base.size();) {
    const std::size_t end = std::min(base.find('/', start), base.size());
    const std::string name = base.substr(start, end - start);
    start = end + 1;
    if (name.empty() || name == ".") continue;
    if (::mkdirat(here.get(), name.c_str(), 0755) == 0) {
      TRY(undo.made_folder(here.get(), name));
    } else if (errno != EEXIST) {
      return fail_errno(errno, "make the folder {}", base.substr(0, end));
    }
    UniqueFd next(::openat(here.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!next.valid()) return fail_errno(errno, "open the folder {}", base.substr(0, end));
    here = std::move(next);
  }
  TRY(check_owner(here.get(), base));
  return here;
}

// A dynamic executable names its linker in a PT_INTERP header; there is none in a jail.
Status check_static(int fd, const std::string& path) {
  Elf64_Ehdr header{};
  TRY(base::read_exactly_at(fd, std::as_writable_bytes(std::span(&header, 1)), 0));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_phentsize != sizeof(Elf64_Phdr)) {
    return fail("not a 64-bit ELF executable");
  }
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (header.e_phoff > (1U << 30U)) return fail("not an ELF executable: its program headers are nowhere");
    TRY(base::read_exactly_at(fd, std::as_writable_bytes(std::span(&segment, 1)),
                              header.e_phoff + i * sizeof(segment)));
    if (segment.p_type == PT_INTERP) {
      return fail("needs shared libraries, which a jail has not; take a static executable ({})", path);
    }
  }
  return {};
}

Status copy(int from, int to, std::uint64_t size) {
  off_t offset = 0;
  while (static_cast<std::uint64_t>(offset) < size) {
    const ssize_t n = ::sendfile(to, from, &offset, size - static_cast<std::uint64_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "copy it");
    if (n == 0) return fail("it became shorter while it was copied");
  }
  return {};
}

// Of this kernel's headers, from 6.3 on; without it, sysctl vm.memfd_noexec may have nothing executed from
// there.
constexpr unsigned kMemoryFileMayExecute = 0x10U;

Result<UniqueFd> make_file_in_memory(const std::string& name) {
  constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd fd(::memfd_create(name.c_str(), kFlags | kMemoryFileMayExecute));
  if (!fd.valid() && errno == EINVAL) fd.reset(::memfd_create(name.c_str(), kFlags));
  if (!fd.valid()) return fail_errno(errno, "make a file in memory");
  return fd;
}

std::unexpected<base::Error> exists_already(const Folder& folder, const std::string& node,
                                            const Options& options) {
  return fail("the jail {} exists already: it has {} (mayfly-jailer --cleanup {} removes it)", folder.path(),
              node, options.id);
}

}  // namespace

Result<UniqueFd> open_executable(const std::string& path) {
  const auto open = [&]() -> Result<UniqueFd> {
    // Without waiting: it may be a FIFO.
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (!fd.valid() && errno == ELOOP) return fail("is a symbolic link; name the file itself");
    if (!fd.valid()) return fail_errno(errno, "open it");
    const struct stat what = TRY(stat_of(fd.get(), path));
    if (!S_ISREG(what.st_mode)) return fail("not a regular file");
    if ((what.st_mode & 0111U) == 0) return fail("not executable (mode {:o})", what.st_mode & 07777U);
    if ((what.st_mode & kOthersMayWrite) != 0) {
      return fail("others than its owner may change it (mode {:o})", what.st_mode & 07777U);
    }
    TRY(check_static(fd.get(), path));
    return fd;
  };
  auto fd = open();
  if (!fd) return fail_because(std::move(fd).error(), "--exec-file {}", path);
  return fd;
}

Result<Folder> Folder::create(const Options& options, Undo& undo) {
  Folder folder;
  const UniqueFd base = TRY(make_base(options.base, undo));
  folder.path_ = options.base + "/" + options.exec_name;
  const UniqueFd name = TRY(make_folder(base.get(), options.exec_name, 0755, folder.path_, undo));
  TRY(check_owner(name.get(), folder.path_));
  folder.path_ += "/" + options.id;
  folder.own_ = TRY(make_folder(name.get(), options.id, 0755, folder.path_, undo));
  TRY(check_owner(folder.own(), folder.path_));
  folder.path_ += "/root";
  folder.root_ = TRY(make_folder(folder.own(), "root", 0700, folder.path_, undo));
  struct statvfs where {};
  if (::fstatvfs(folder.root(), &where) < 0) return fail_errno(errno, "look at {}", folder.path_);
  folder.noexec_ = (where.f_flag & ST_NOEXEC) != 0;
  // The VMM may make files here, and with the sticky bit removes only its own: not its executable, not /dev.
  // The user of --userns owns everything in any case.
  if (!options.userns) {
    if (::fchown(folder.root(), 0, options.gid) < 0)
      return fail_errno(errno, "give {} to its group", folder.path_);
    if (::fchmod(folder.root(), 01770) < 0) return fail_errno(errno, "set the mode of {}", folder.path_);
  }
  return folder;
}

Status Folder::copy_executable(int source, const Options& options, Undo& undo) {
  const struct stat what = TRY(stat_of(source, options.exec_file));
  UniqueFd target = TRY(noexec_ ? make_file_in_memory(options.exec_name)
                                : make_file(root(), options.exec_name, 0600, options, undo));
  if (auto copied = copy(source, target.get(), static_cast<std::uint64_t>(what.st_size)); !copied) {
    return fail_because(std::move(copied).error(), "the copy {}/{}", path_, options.exec_name);
  }
  // A process whose executable it may not read is not dumpable: no core, no ptrace by others of its user
  // (ptrace(2)).
  if (::fchmod(target.get(), 0111) < 0)
    return fail_errno(errno, "set the mode of {}/{}", path_, options.exec_name);
  if (noexec_) {
    if (::fcntl(target.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
      return fail_errno(errno, "seal the copy of {}", options.exec_file);
    }
    // execve(2) refuses a file that somebody may write to.
    executable_.reset(::open(fmt::format("/proc/self/fd/{}", target.get()).c_str(), O_PATH | O_CLOEXEC));
    if (!executable_.valid()) return fail_errno(errno, "open the copy of {}", options.exec_file);
    return {};
  }
  executable_.reset(::openat(root(), options.exec_name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!executable_.valid()) return fail_errno(errno, "open {}/{}", path_, options.exec_name);
  return {};
}

Status Folder::make_devices(const Options& options, Nodes nodes, Undo& undo) {
  const auto new_folder = [&](int parent, const char* name) -> Result<UniqueFd> {
    if (::mkdirat(parent, name, 0755) < 0) {
      if (errno == EEXIST) return exists_already(*this, name, options);
      return fail_errno(errno, "make the folder {} in {}", name, path_);
    }
    TRY(undo.made_folder(parent, name));
    return open_folder(parent, name, path_ + "/dev");
  };
  const UniqueFd dev = TRY(new_folder(root(), "dev"));
  const UniqueFd net = TRY(new_folder(dev.get(), "net"));
  for (const Device& device : kDevices) {
    struct stat host {};
    if (::stat(device.host, &host) < 0) {
      if (errno == ENOENT && (!device.needed || !options.pass_fds.empty())) continue;
      return fail_errno(errno, "{}, which the VMM needs", device.host);
    }
    if (!S_ISCHR(host.st_mode)) return fail("{} is not a character device", device.host);
    if (nodes == Nodes::kPlaces && ::faccessat(AT_FDCWD, device.host, R_OK | W_OK, AT_EACCESS) < 0) {
      if (!device.needed || !options.pass_fds.empty()) continue;
      return fail("you may not use {}: join its group, or pass an open one by --pass-fd", device.host);
    }
    const int folder = *device.folder != '\0' ? net.get() : dev.get();
    const mode_t type = nodes == Nodes::kDevices ? S_IFCHR : S_IFREG;
    if (::mknodat(folder, device.name, type | 0600U, nodes == Nodes::kDevices ? host.st_rdev : 0) < 0) {
      return fail_errno(errno, "make {} in {}", device.host, path_);
    }
    TRY(undo.made_file(folder, device.name));
    if (nodes == Nodes::kDevices &&
        ::fchownat(folder, device.name, options.uid, options.gid, AT_SYMLINK_NOFOLLOW) < 0) {
      return fail_errno(errno, "give {} in {} to user {}", device.host, path_, options.uid);
    }
  }
  return {};
}

Status Folder::make_run_folder(const Options& options, Undo& undo) {
  if (::mkdirat(root(), "run", 0700) < 0) {
    // A client made it, perhaps with its own socket's place in mind; what it is, is checked by those who use
    // it.
    if (errno == EEXIST) return {};
    return fail_errno(errno, "make the folder run in {}", path_);
  }
  TRY(undo.made_folder(root(), "run"));
  if (!options.userns && ::fchownat(root(), "run", options.uid, options.gid, AT_SYMLINK_NOFOLLOW) < 0) {
    return fail_errno(errno, "give {}/run to user {}", path_, options.uid);
  }
  return {};
}

Result<UniqueFd> Folder::make_file(int folder, const std::string& name, unsigned mode, const Options& options,
                                   Undo& undo) const {
  // O_EXCL follows no link, symbolic or hard: what is written here is a new file.
  UniqueFd fd(::openat(folder, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!fd.valid() && errno == EEXIST) return exists_already(*this, name, options);
  if (!fd.valid()) return fail_errno(errno, "make the file {} in the jail", name);
  TRY(undo.made_file(folder, name));
  return fd;
}

}  // namespace mayfly::jailer
