#include "cli/runtime_folder.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

std::vector<std::string> runtime_parents() {
  std::vector<std::string> parents;
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && runtime[0] == '/') parents.push_back(fmt::format("{}/mayfly", runtime));
  if (::geteuid() == 0) parents.emplace_back("/run/mayfly");
  parents.push_back(fmt::format("/tmp/mayfly-{}", ::geteuid()));
  return parents;
}

Status make_private_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) < 0 && errno != EEXIST) return fail_errno(errno, "make {}", path);
  return check_private_folder(path);
}

// In /tmp somebody else may have been there first.
Status check_private_folder(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) < 0) return fail_errno(errno, "look at {}", path);
  if (!S_ISDIR(status.st_mode) || status.st_uid != ::geteuid() || (status.st_mode & 0077) != 0) {
    return fail("{} is not a folder of yours that is closed to others; remove it", path);
  }
  return {};
}

void remove_folder(const std::string& path) {
  const std::size_t name = path.rfind('/') + 1;
  const std::string old = fmt::format("{}.{}.{}", path.substr(0, name), path.substr(name), ::getpid());
  const bool renamed = ::rename(path.c_str(), old.c_str()) == 0;
  std::error_code ignored;  // gone already is as good
  std::filesystem::remove_all(renamed ? old : path, ignored);
}

Result<RuntimeFolder> RuntimeFolder::create() {
  return create_below(runtime_parents());
}

Result<RuntimeFolder> RuntimeFolder::create_below(const std::vector<std::string>& parents) {
  std::string reasons;
  const auto refuse = [&](const std::string& reason) { reasons += (reasons.empty() ? "" : "; ") + reason; };
  for (const std::string& parent : parents) {
    std::string path = parent + "/XXXXXX";
    if (path.size() + 1 + kLongestName >= sizeof(sockaddr_un::sun_path)) {
      refuse(parent + " is too long a path for a socket");
      continue;
    }
    if (const Status made = make_private_folder(parent); !made) {
      refuse(made.error().message);
      continue;
    }
    if (::mkdtemp(path.data()) != nullptr) return RuntimeFolder(std::move(path));
    refuse(fail_errno(errno, "make a folder in {}", parent).error().message);
  }
  return fail("no folder for sockets ({}); set XDG_RUNTIME_DIR to a folder of yours", reasons);
}

RuntimeFolder::~RuntimeFolder() {
  if (!path_.empty()) remove_folder(path_);
}

}  // namespace mayfly::cli
