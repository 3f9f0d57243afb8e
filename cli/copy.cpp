#include "cli/copy.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "base/file.h"
#include "cli/frames.h"
#include "cli/guest_command.h"
#include "cli/machine_registry.h"
#include "cli/runtime_folder.h"
#include "cli/tool.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;
namespace fs = std::filesystem;

namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};
Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<ByteEnd> our_end(UniqueFd fd) {
  if (::fcntl(fd.get(), F_SETFL, O_NONBLOCK) < 0) return fail_errno(errno, "set up a pipe");
  return ByteEnd::own(std::move(fd));
}

Result<ByteEnd> nowhere() {
  return ByteEnd::own(TRY(base::open_file("/dev/null", O_RDWR)));
}

// The host's tar, with one of its standard streams replaced.
class Tar {
 public:
  static Result<Tar> start(std::vector<std::string> words, int stream, UniqueFd fd) {
    const std::string program = TRY(find_tool("tar"));
    words.insert(words.begin(), "tar");
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    posix_spawn_file_actions_t files;
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawn_file_actions_adddup2(&files, fd.get(), stream);
    pid_t pid = -1;
    const int error = ::posix_spawn(&pid, program.c_str(), &files, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&files);
    if (error != 0) return fail_errno(error, "run {}", program);
    return Tar(pid);
  }
  ~Tar() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Tar(Tar&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Tar(const Tar&) = delete;
  Tar& operator=(const Tar&) = delete;

  // What is wrong it has said on standard error.
  Status wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
    return fail("tar failed");
  }

 private:
  explicit Tar(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

struct Split {
  std::string folder;
  std::string name;
};
// Fails for a path that names no entry of a folder.
Result<Split> split(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.ends_with('/')) trimmed.pop_back();
  const std::size_t slash = trimmed.rfind('/');
  Split parts{.folder = slash == std::string::npos ? "."
                        : slash == 0               ? "/"
                                                   : trimmed.substr(0, slash),
              .name = slash == std::string::npos ? trimmed : trimmed.substr(slash + 1)};
  if (parts.name.empty() || parts.name == "." || parts.name == "..") {
    return fail("{}: name a file or a folder, by its own name", path.empty() ? "\"\"" : path);
  }
  return parts;
}

// Without errors only if the program was there and had none.
Status run_in_guest(const FoundMachine& machine, std::vector<std::string> command, ByteEnd input,
                    ByteEnd output) {
  StandardStreams streams{.input = std::move(input), .output = std::move(output), .errors = TRY(nowhere())};
  const std::string program = command.front();
  StartRequest request;
  request.arguments = std::move(command);
  std::string errors;
  const Result<int> status = run_in_machine(machine, request, std::move(streams), &errors);
  if (!status && status.error().code == 127) {
    return fail("{}: the guest has no program {}, which mayfly cp needs there", machine.facts.name, program);
  }
  if (!status) return std::unexpected(status.error());
  if (*status == 0) return {};
  return fail("{}: in the guest, {}", machine.facts.name,
              errors.empty() ? program + " failed" : printable(errors.substr(0, errors.find('\n')), 400));
}

Result<bool> is_folder_in_guest(const FoundMachine& machine, const std::string& path) {
  StandardStreams streams{.input = TRY(nowhere()), .output = TRY(nowhere()), .errors = TRY(nowhere())};
  StartRequest request;
  request.arguments = {"test", "-d", path};
  const Result<int> status = run_in_machine(machine, request, std::move(streams));
  if (!status && status.error().code == 127) {
    return fail("{}: the guest has no program test, which mayfly cp needs there", machine.facts.name);
  }
  if (!status) return std::unexpected(status.error());
  return *status == 0;
}

std::string escaped(const std::string& text, std::string_view special) {
  std::string out;
  for (const char c : text) {
    if (special.find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

// For tar's --transform: the first component of names, but not of what symbolic links say. What separates the
// parts is a character that names do not have.
std::string renaming(const std::string& from, const std::string& to) {
  return fmt::format("flags=rhS;s\x01^{}\x01{}\x01", escaped(from, "\\[].*^$"), escaped(to, "\\&"));
}

Status copy_in(const CopyEnd& from, const CopyEnd& to) {
  const FoundMachine machine = TRY(find_machine(to.machine));
  // What a link given by name leads to is what is meant; those below it stay links.
  std::error_code error;
  const fs::path source = fs::canonical(from.path, error);
  if (error) return fail_errno(error.value(), "{}", from.path);
  const Split real = TRY(split(source.string()));
  const Split given = split(fs::path(from.path).lexically_normal().string()).value_or(real);
  Split target{.folder = to.path, .name = given.name};
  if (!TRY(is_folder_in_guest(machine, to.path))) target = TRY(split(to.path));

  Pipe pipe = TRY(make_pipe());
  ByteEnd reader = TRY(our_end(std::move(pipe.read)));
  std::vector<std::string> words = {"-C",        real.folder,       "--format=gnu", "--owner=0",
                                    "--group=0", "--numeric-owner", "-cf",          "-"};
  if (real.name != target.name) words.push_back("--transform=" + renaming(real.name, target.name));
  words.insert(words.end(), {"--", real.name});
  Tar tar = TRY(Tar::start(std::move(words), STDOUT_FILENO, std::move(pipe.write)));
  ByteEnd output = TRY(nowhere());
  TRY(run_in_guest(machine, {"tar", "-xf", "-", "-C", target.folder}, std::move(reader), std::move(output)));
  return tar.wait();
}

// A folder beside the target that nobody else gets into, gone with this object.
class PrivateFolder {
 public:
  static Result<PrivateFolder> create(const std::string& parent) {
    std::string path = parent + "/.mayfly-cp.XXXXXX";
    if (::mkdtemp(path.data()) == nullptr) return fail_errno(errno, "make a folder in {}", parent);
    return PrivateFolder(path);
  }
  ~PrivateFolder() {
    if (!path_.empty()) remove_folder(path_);
  }
  PrivateFolder(PrivateFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  PrivateFolder(const PrivateFolder&) = delete;
  PrivateFolder& operator=(const PrivateFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit PrivateFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

Status copy_out(const CopyEnd& from, const CopyEnd& to) {
  const FoundMachine machine = TRY(find_machine(from.machine));
  const Split source = TRY(split(from.path));
  std::error_code error;
  Split target{.folder = to.path, .name = source.name};
  if (!fs::is_directory(to.path, error)) target = TRY(split(to.path));
  const std::string place = target.folder + "/" + target.name;
  if (fs::is_directory(fs::symlink_status(place, error))) {
    return fail("{} is there already; a folder is not copied over another", place);
  }
  // Unpacked where nothing can be met or overwritten, looked through, and only then moved.
  const PrivateFolder folder = TRY(PrivateFolder::create(target.folder));
  Pipe pipe = TRY(make_pipe());
  ByteEnd writer = TRY(our_end(std::move(pipe.write)));
  Tar tar = TRY(Tar::start({"-C", folder.path(), "--no-same-owner", "--no-same-permissions",
                            "--keep-old-files", "--delay-directory-restore", "-xf", "-"},
                           STDIN_FILENO, std::move(pipe.read)));
  ByteEnd input = TRY(nowhere());
  TRY(run_in_guest(machine, {"tar", "-cf", "-", "-C", source.folder, "--", source.name}, std::move(input),
                   std::move(writer)));
  TRY(tar.wait());
  TRY(check_unpacked(folder.path(), source.name));
  if (::rename((folder.path() + "/" + source.name).c_str(), place.c_str()) < 0) {
    return fail_errno(errno, "make {}", place);
  }
  return {};
}

}  // namespace

CopyEnd parse_copy_end(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0 || text.find('/') < colon)
    return {.machine = {}, .path = text};
  return {.machine = text.substr(0, colon), .path = text.substr(colon + 1)};
}

Status check_unpacked(const std::string& folder, const std::string& name) {
  std::error_code error;
  bool found = false;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->path().filename() != name) {
      return fail("the guest sent {}, which was not asked for",
                  printable(it->path().filename().string(), 200));
    }
    found = true;
  }
  if (error) return fail_errno(error.value(), "read {}", folder);
  if (!found) return fail("the guest sent nothing");
  // Links are not followed by the iterator.
  for (auto it = fs::recursive_directory_iterator(folder, error);
       !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const fs::file_status status = it->symlink_status(error);
    if (error) break;
    if (fs::is_symlink(status)) continue;
    if (!fs::is_regular_file(status) && !fs::is_directory(status)) {
      return fail("the guest sent {}, which is neither file nor folder",
                  printable(it->path().filename().string(), 200));
    }
    const fs::perms privileged = fs::perms::set_uid | fs::perms::set_gid;
    if ((status.permissions() & privileged) == fs::perms::none) continue;
    fs::permissions(it->path(), privileged, fs::perm_options::remove | fs::perm_options::nofollow, error);
    if (error) break;
  }
  if (error) return fail_errno(error.value(), "look through {}", folder);
  return {};
}

Status copy_files(const CopyEnd& from, const CopyEnd& to) {
  if (from.machine.empty() == to.machine.empty()) {
    return fail("one end of a copy is a machine's: mayfly cp NAME:PATH PATH, or the other way round");
  }
  if (from.path.empty() || to.path.empty()) return fail("a path is empty");
  ::signal(SIGPIPE, SIG_IGN);
  return to.machine.empty() ? copy_out(from, to) : copy_in(from, to);
}

}  // namespace mayfly::cli
