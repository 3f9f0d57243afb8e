#include "cli/network_registry.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <sstream>

#include "base/file.h"
#include "cli/ipv4.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

// Behind the slots.
constexpr off_t kTurnByte = kMostGuestNetworks;

// fcntl(2) on `count` bytes from `start`; 0, or an errno value.
int lock(int fd, int command, short type, off_t start, off_t count) {
  struct flock range {};
  range.l_type = type;
  range.l_whence = SEEK_SET;
  range.l_start = start;
  range.l_len = count;
  for (;;) {
    if (::fcntl(fd, command, &range) == 0) return 0;
    if (errno != EINTR) return errno;
  }
}

Result<std::string> path_in(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST) return fail_errno(errno, "make {}", folder);
  struct stat space {};
  if (::stat("/proc/self/ns/net", &space) < 0) return fail_errno(errno, "look at /proc/self/ns/net");
  return fmt::format("{}/network-{}", folder, space.st_ino);
}

// Whether `path` is still the file that is open.
bool is_current(int fd, const std::string& path) {
  struct stat ours {};
  struct stat there {};
  return ::fstat(fd, &ours) == 0 && ::stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

}  // namespace

Result<NetworkRegistry> NetworkRegistry::open(const std::string& folder) {
  const std::string path = TRY(path_in(folder));
  UniqueFd fd = TRY(base::open_file(path, O_RDWR | O_CREAT));
  return NetworkRegistry(std::move(fd), path);
}

Result<NetworkRegistry::Turn> NetworkRegistry::turn() {
  for (;;) {
    if (const int error = lock(fd_.get(), F_OFD_SETLKW, F_WRLCK, kTurnByte, 1); error != 0) {
      return fail_errno(error, "lock the list of Mayfly's networks");
    }
    Turn turn(fd_.get());
    // The last one out may have removed the file between our opening and our turn.
    if (path_.empty() || is_current(fd_.get(), path_)) return turn;
    fd_ = TRY(base::open_file(path_, O_RDWR | O_CREAT));
  }
}

NetworkRegistry::Turn::~Turn() {
  if (fd_ >= 0) lock(fd_, F_OFD_SETLK, F_UNLCK, kTurnByte, 1);
}

bool NetworkRegistry::take(unsigned slot) {
  return lock(fd_.get(), F_OFD_SETLK, F_WRLCK, static_cast<off_t>(slot), 1) == 0;
}

void NetworkRegistry::leave(unsigned slot) {
  lock(fd_.get(), F_OFD_SETLK, F_UNLCK, static_cast<off_t>(slot), 1);
}

bool NetworkRegistry::others() const {
  struct flock range {};
  range.l_type = F_WRLCK;
  range.l_whence = SEEK_SET;
  range.l_len = kMostGuestNetworks;
  return ::fcntl(fd_.get(), F_OFD_GETLK, &range) != 0 || range.l_type != F_UNLCK;
}

std::vector<std::string> NetworkRegistry::forwarding() const {
  std::array<char, 4096> text;
  const ssize_t n = ::pread(fd_.get(), text.data(), text.size(), 0);
  std::vector<std::string> interfaces;
  std::istringstream lines(std::string(text.data(), n > 0 ? static_cast<std::size_t>(n) : 0));
  for (std::string line; std::getline(lines, line);) interfaces.push_back(line);
  return interfaces;
}

Status NetworkRegistry::set_forwarding(const std::vector<std::string>& interfaces) {
  std::string text;
  for (const std::string& each : interfaces) text += each + "\n";
  if (::ftruncate(fd_.get(), 0) < 0 ||
      ::pwrite(fd_.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return fail_errno(errno, "write the list of Mayfly's networks");
  }
  return {};
}

void NetworkRegistry::remove_file() const {
  std::array<char, 4096> path{};
  const std::string link = fmt::format("/proc/self/fd/{}", fd_.get());
  if (::readlink(link.c_str(), path.data(), path.size() - 1) <= 0) return;
  if (is_current(fd_.get(), path.data())) ::unlink(path.data());
}

}  // namespace mayfly::cli
