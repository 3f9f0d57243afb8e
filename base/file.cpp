#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <climits>

#include "base/draft.h"

namespace mayfly::base {

std::optional<int> passed_descriptor(std::string_view path) {
  constexpr std::string_view kFolder = "/dev/fd/";
  if (!path.starts_with(kFolder)) return std::nullopt;
  path.remove_prefix(kFolder.size());
  int number = -1;
  const auto [end, error] = std::from_chars(path.data(), path.data() + path.size(), number);
  if (error != std::errc{} || end != path.data() + path.size() || number < 0) return std::nullopt;
  return number;
}

namespace {

Result<UniqueFd> duplicate(int passed, const std::string& path, int flags) {
  const int now = ::fcntl(passed, F_GETFL);
  if (now < 0) return fail_errno(errno, "open {}", path);
  const int has = now & O_ACCMODE;
  if (has != O_RDWR && has != (flags & O_ACCMODE)) return fail_errno(EACCES, "open {}", path);
  UniqueFd fd(::fcntl(passed, F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "open {}", path);
  return fd;
}

}  // namespace

Result<UniqueFd> open_file(const std::string& path, int flags, unsigned mode) {
  if (const auto passed = passed_descriptor(path)) return duplicate(*passed, path, flags);
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return fail_errno(errno, "open {}", path);
  return fd;
}

Result<UniqueFd> open_to_append(const std::string& path) {
  // A FIFO is opened read-write, so that this neither waits for its reader nor fails without one.
  struct stat what {};
  const bool fifo = ::stat(path.c_str(), &what) == 0 && S_ISFIFO(what.st_mode);
  const int access = fifo ? O_RDWR : O_WRONLY | O_CREAT | O_APPEND;
  const auto passed = passed_descriptor(path);
  if (!passed) return open_file(path, access | O_NONBLOCK | O_NOCTTY);
  // Opened once more where there is a /proc, so that those who share the descriptor go on waiting.
  UniqueFd own(::open(path.c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (own.valid()) return own;
  own = TRY(duplicate(*passed, path, O_WRONLY));
  const int flags = ::fcntl(own.get(), F_GETFL);
  if (flags < 0 || ::fcntl(own.get(), F_SETFL, flags | O_NONBLOCK) < 0)
    return fail_errno(errno, "open {}", path);
  return own;
}

Result<std::string> read_file(const std::string& path, std::size_t limit) {
  const UniqueFd fd = TRY(open_file(path, O_RDONLY));
  std::string content;
  std::array<char, 65536> buffer{};
  for (;;) {
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "read {}", path);
    if (n == 0) return content;
    if (static_cast<std::size_t>(n) > limit - content.size()) {
      return fail("{} is larger than {} bytes", path, limit);
    }
    content.append(buffer.data(), static_cast<std::size_t>(n));
  }
}

Status read_exactly_at(int fd, std::span<std::byte> out, std::uint64_t offset) {
  while (!out.empty()) {
    const ssize_t n = ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "read {} bytes at offset {}", out.size(), offset);
    if (n == 0) return fail("the file ends at offset {}, {} bytes early", offset, out.size());
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

Status write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "write {} bytes", bytes.size());
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Status write_all(int fd, std::string_view text) {
  return write_all(fd, std::as_bytes(std::span(text)));
}

Status write_file_atomically(const std::string& path, std::string_view content, unsigned mode) {
  const auto write = [&]() -> Status {
    Draft draft = TRY(Draft::create(path));
    TRY(write_all(draft.fd(), content));
    if (::fchmod(draft.fd(), mode) < 0) return fail_errno(errno, "set its mode");
    return draft.publish(Draft::Over::kAFile);
  };
  Status written = write();
  if (!written) return fail_because(std::move(written).error(), "write {}", path);
  return {};
}

Result<std::string> executable_folder() {
  std::array<char, PATH_MAX> path{};
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (n < 0) return fail_errno(errno, "read /proc/self/exe");
  const std::string_view whole(path.data(), static_cast<std::size_t>(n));
  return std::string(whole.substr(0, whole.rfind('/')));
}

}  // namespace mayfly::base
