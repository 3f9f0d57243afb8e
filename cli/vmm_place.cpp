#include "cli/vmm_place.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "base/file.h"
#include "cli/tool.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

// Each VMM has a user of its own when root runs it: the number of the mayfly that keeps it, which no other
// has for as long, in a range that no system gives out (systemd's UIDS-GIDS: 1879048192 to 2147483647 are
// unused).
constexpr uid_t kFirstUser = 1879048192;
uid_t user_of_this_machine() {
  return kFirstUser + static_cast<uid_t>(::getpid());
}

// In the machine's folder.
constexpr std::string_view kSockets = "run";
constexpr std::string_view kJails = "jail";

// What mayfly-jailer does takes these; a container's root has few of them.
constexpr std::array<unsigned, 7> kNeededCapabilities = {
    CAP_CHOWN, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_CHROOT, CAP_MKNOD, CAP_SYS_ADMIN};

bool has_capabilities() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  if (::syscall(SYS_capget, &header, sets.data()) < 0) return false;
  for (const unsigned capability : kNeededCapabilities) {
    if ((sets[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) == 0) return false;
  }
  return true;
}

// Whether our user namespace has this user (user_namespaces(7)): a container's may have only some.
bool has_user(uid_t user) {
  const auto map = base::read_file("/proc/self/uid_map");
  if (!map) return true;
  std::istringstream lines(*map);
  for (std::uint64_t inside = 0, outside = 0, count = 0; lines >> inside >> outside >> count;) {
    if (user >= inside && user - inside < count) return true;
  }
  return false;
}

std::string root_obstacle() {
  if (!has_capabilities()) return "this root has not the capabilities that making one takes";
  if (!has_user(user_of_this_machine())) {
    return fmt::format("user {} is not mapped into this user namespace", user_of_this_machine());
  }
  return {};
}

// A host may let anybody make namespaces, and then refuse what they are made for.
std::string user_obstacle() {
  const int error = error_in_child([] {
    return ::unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWIPC) == 0 &&
           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
  });
  if (error == 0) return {};
  const char* const why = strerrordesc_np(error);
  return fmt::format("this host lets users make no user namespaces ({})", why != nullptr ? why : "?");
}

}  // namespace

std::string jail_obstacle() {
  // The newest system call that the jailer makes.
  if (::syscall(SYS_mount_setattr, -1, "", 0, nullptr, 0) < 0 && errno == ENOSYS) {
    return "it takes Linux 5.12 or newer";
  }
  return ::geteuid() == 0 ? root_obstacle() : user_obstacle();
}

const char* jail_kind(const RunFiles& files) {
  if (files.jailer.empty()) return "none";
  return ::geteuid() == 0 ? "root" : "userns";
}

std::string VmmPlace::socket_in(const std::string& folder, std::string_view name) {
  return fmt::format("{}/{}/{}", folder, kSockets, name);
}

std::string VmmPlace::socket_inside(std::string_view name) const {
  return jailed() ? fmt::format("/{}/{}", kSockets, name) : socket(name);
}

Result<VmmPlace> VmmPlace::make(const RunFiles& files, const std::string& folder, const std::string& id) {
  VmmPlace place(folder);
  if (!files.jailer.empty()) {
    TRY(place.make_jail_folder(files, id));
    return place;
  }
  const std::string sockets = fmt::format("{}/{}", folder, kSockets);
  if (::mkdir(sockets.c_str(), 0700) < 0) return fail_errno(errno, "make {}", sockets);
  return place;
}

// The jail's own folder for sockets is made before the jailer comes, because we listen in it. Its path is too
// long for a socket's address: a link leads there.
Status VmmPlace::make_jail_folder(const RunFiles& files, const std::string& id) {
  std::error_code error;
  const std::filesystem::path vmm = std::filesystem::canonical(files.vmm, error);
  if (error) return fail_errno(error.value(), "find {}", files.vmm);
  const std::string inside = fmt::format("{}/{}/{}/root/{}", kJails, vmm.filename().string(), id, kSockets);
  const std::string whole = fmt::format("{}/{}", folder_, inside);
  for (std::size_t end = folder_.size(); end != std::string::npos;) {
    end = whole.find('/', end + 1);
    const std::string part = whole.substr(0, end);
    if (::mkdir(part.c_str(), end == std::string::npos ? 0700 : 0755) < 0)
      return fail_errno(errno, "make {}", part);
  }
  const std::string link = fmt::format("{}/{}", folder_, kSockets);
  if (::symlink(inside.c_str(), link.c_str()) < 0) return fail_errno(errno, "make {}", link);

  jailer_ = {files.jailer,
             "--id",
             id,
             "--exec-file",
             vmm.string(),
             "--chroot-base-dir",
             fmt::format("{}/{}", folder_, kJails)};
  if (::geteuid() != 0) {
    jailer_.emplace_back("--userns");
    return {};
  }
  user_ = user_of_this_machine();
  if (::chown(whole.c_str(), *user_, *user_) < 0)
    return fail_errno(errno, "give {} to user {}", whole, *user_);
  jailer_.insert(jailer_.end(), {"--uid", fmt::to_string(*user_), "--gid", fmt::to_string(*user_)});
  return {};
}

Result<std::unique_ptr<Listener>> VmmPlace::listen(base::EventLoop& loop, std::string_view name,
                                                   std::function<void(UniqueFd)> on_connection) const {
  auto listener = TRY(Listener::create(loop, socket(name), std::move(on_connection)));
  if (user_ && ::chown(socket(name).c_str(), *user_, *user_) < 0) {
    return fail_errno(errno, "give {} to user {}", socket(name), *user_);
  }
  return listener;
}

}  // namespace mayfly::cli
