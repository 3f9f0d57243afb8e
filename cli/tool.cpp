#include "cli/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "base/unique_fd.h"

namespace mayfly::cli {
namespace {

using base::fail;
using base::fail_errno;
using base::Result;
using base::UniqueFd;

constexpr std::size_t kLongestReport = 64U << 10U;

std::string locate(const std::string& name) {
  if (name.find('/') != std::string::npos) return ::access(name.c_str(), X_OK) == 0 ? name : "";
  const char* const variable = std::getenv("PATH");
  std::string path = variable != nullptr ? variable : "/usr/bin:/bin";
  path += ":/usr/sbin:/sbin";  // often not in the PATH of people who are not root
  std::string_view rest = path;
  for (;;) {
    const std::size_t colon = rest.find(':');
    const std::string file = std::string(rest.substr(0, colon)) + "/" + name;
    if (::access(file.c_str(), X_OK) == 0) return file;
    if (colon == std::string_view::npos) return "";
    rest.remove_prefix(colon + 1);
  }
}

const char* package_of(std::string_view tool) {
  if (tool == "mke2fs" || tool == "debugfs") return "e2fsprogs";
  if (tool == "nft") return "nftables";
  if (tool == "unshare") return "util-linux";
  for (const char* const package : {"passt", "skopeo", "tar", "umoci"}) {
    if (tool == package) return package;
  }
  return "fakeroot";
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> full_environment(const std::vector<std::string>& extra) {
  // In the order of precedence: of two values of a name, programs see the first.
  std::vector<std::string> out = extra;
  out.emplace_back("LC_ALL=C");
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (!std::string_view(*entry).starts_with("LC_ALL=")) out.emplace_back(*entry);
  }
  return out;
}

Result<pid_t> spawn(const Tool& tool, const UniqueFd& report, const HeldSignals& signals) {
  const std::string file = TRY(find_tool(tool.words.front()));
  std::vector<std::string> words = tool.words;
  std::vector<std::string> environment = full_environment(tool.environment);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  if (!tool.reads_stdin) ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (tool.returns_output) {
    ::posix_spawn_file_actions_adddup2(&files, report.get(), STDOUT_FILENO);
  } else {
    ::posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  }
  ::posix_spawn_file_actions_adddup2(&files, report.get(), STDERR_FILENO);
  ::posix_spawnattr_setsigmask(&attributes, &signals.before());
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, file.c_str(), &files, &attributes, pointers(words).data(),
                                  pointers(environment).data());
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  if (error != 0) return fail_errno(error, "run {}", file);
  return pid;
}

// Takes everything, keeps the beginning and lets the rest go.
std::string read_report(const UniqueFd& fd) {
  std::string report;
  std::array<char, 4096> chunk;
  for (;;) {
    const ssize_t count = ::read(fd.get(), chunk.data(), chunk.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return report;
    const std::size_t room = kLongestReport - report.size();
    report.append(chunk.data(), std::min(room, static_cast<std::size_t>(count)));
  }
}

// The first line that says what went wrong: further ones are mostly consequences.
std::string first_line(std::string_view report) {
  const std::size_t begin = report.find_first_not_of("\n ");
  if (begin == std::string_view::npos) return "no reason given";
  report.remove_prefix(begin);
  return std::string(report.substr(0, report.find('\n')));
}

}  // namespace

HeldSignals::HeldSignals() {
  ::sigemptyset(&held_);
  for (const int each : {SIGINT, SIGTERM, SIGHUP}) ::sigaddset(&held_, each);
  ::pthread_sigmask(SIG_BLOCK, &held_, &before_);
}

HeldSignals::~HeldSignals() {
  ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

bool HeldSignals::stop_asked() {
  sigset_t pending;
  ::sigpending(&pending);
  return ::sigismember(&pending, SIGINT) == 1 || ::sigismember(&pending, SIGTERM) == 1 ||
         ::sigismember(&pending, SIGHUP) == 1;
}

int error_in_child(bool (*attempt)()) {
  const pid_t pid = ::fork();
  if (pid < 0) return errno;
  if (pid == 0) ::_exit(attempt() ? 0 : errno);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
}

bool has_tool(const std::string& name) {
  return !locate(name).empty();
}

Result<std::string> find_tool(const std::string& name) {
  std::string file = locate(name);
  if (file.empty()) return fail("{} is missing: apt-get install {}", name, package_of(name));
  return file;
}

Result<std::string> run_tool(const Tool& tool, const HeldSignals& signals) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe");
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t pid = TRY(spawn(tool, writer, signals));
  writer.reset();
  std::string report = read_report(reader);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (HeldSignals::stop_asked()) return fail("interrupted");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) return fail("{}", first_line(report));
  return report;
}

}  // namespace mayfly::cli
