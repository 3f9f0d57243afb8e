#include "tests/jail/jail_fixture.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "base/file.h"
#include "tests/support/eventually.h"
#include "tests/support/pipe.h"

namespace mayfly::test {

namespace {

constexpr int kPassedFd = 20;

// In the child: only what may be called there.
[[noreturn]] void become(const std::vector<char*>& argv, const Program::How& how, int in, int out, int err) {
  if (how.own_group) ::setpgid(0, 0);
  if (!how.prepare.empty()) {
    if (::unshare(CLONE_NEWNS) < 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
      ::_exit(120);
    if (std::system(how.prepare.c_str()) != 0) ::_exit(121);  // NOLINT
  }
  if (how.user) {
    if (::setgroups(0, nullptr) < 0 || ::setgid(*how.user) < 0 || ::setuid(*how.user) < 0) ::_exit(122);
  }
  if (how.pass_fd >= 0 && ::dup2(how.pass_fd, kPassedFd) < 0) ::_exit(123);
  if (::dup2(in, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0) ::_exit(124);
  // Inherited, and not wanted in a jail: a variable, a descriptor. LeakSanitizer cannot look at an undumpable
  // process.
  ::setenv("SECRET_OF_THE_CALLER", "x", 1);
  ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
  static_cast<void>(::open("/", O_RDONLY | O_DIRECTORY));
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

}  // namespace

bool have_root() {
  if (::geteuid() == 0) return true;
  std::cerr << "SKIPPED: making jails without --userns takes root\n";
  return false;
}

std::string jailer_program() {
  return *base::executable_folder() + "/../bin/mayfly-jailer";
}

std::string probe_program() {
  return *base::executable_folder() + "/jail_probe";
}

Program::Program(const std::vector<std::string>& words, const How& how) {
  std::vector<std::string> copies = words;
  std::vector<char*> argv;
  for (std::string& word : copies) argv.push_back(word.data());
  argv.push_back(nullptr);
  Pipe in, out, err;
  pid_ = ::fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) become(argv, how, in.read.get(), out.write.get(), err.write.get());
  input_ = std::move(in.write);
  out_ = std::move(out.read);
  err_ = std::move(err.read);
}

Program::~Program() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

bool Program::read_some() {
  if (!out_.valid() && !err_.valid()) return false;
  std::array<pollfd, 2> fds{{{out_.get(), POLLIN, 0}, {err_.get(), POLLIN, 0}}};
  if (::poll(fds.data(), fds.size(), static_cast<int>(kDeadline / std::chrono::milliseconds(1))) <= 0) {
    FAIL("silence; stdout: " << output_ << " stderr: " << errors_);
  }
  for (std::size_t i = 0; i < fds.size(); ++i) {
    if (fds[i].fd < 0 || fds[i].revents == 0) continue;
    std::array<char, 4096> buffer{};
    const ssize_t n = ::read(fds[i].fd, buffer.data(), buffer.size());
    if (n > 0) (i == 0 ? output_ : errors_).append(buffer.data(), static_cast<std::size_t>(n));
    if (n <= 0) (i == 0 ? out_ : err_).reset();
  }
  return true;
}

void Program::wait_for(std::string_view text) {
  while (output_.find(text) == std::string::npos) {
    if (!read_some()) FAIL("\"" << text << "\" was not said, but: " << output_ << errors_);
  }
}

int Program::finish() {
  input_.reset();
  while (read_some()) {
  }
  int status = 0;
  REQUIRE(::waitpid(pid_, &status, 0) == pid_);
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::map<std::string, std::string> Program::values() const {
  std::map<std::string, std::string> found;
  std::istringstream lines(output_);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t colon = line.find(": ");
    if (colon != std::string::npos) found[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return found;
}

std::string Program::value(std::string_view name) const {
  const auto all = values();
  const auto found = all.find(std::string(name));
  return found == all.end() ? std::string() : found->second;
}

Jails::Jails() {
  static std::atomic<int> number = 0;
  name_ = fmt::format("probe-{}-{}", ::getpid(), ++number);
  probe_ = folder_.path(name_);
  std::filesystem::copy_file(probe_program(), probe_);
  std::filesystem::permissions(folder_.path("."), std::filesystem::perms(0755));
}

Jails::~Jails() {
  for (const char* hierarchy : {"cpu", "cpuset", "memory", "pids", "unified", ""}) {
    const std::filesystem::path parent = std::filesystem::path("/sys/fs/cgroup") / hierarchy / name_;
    // A process that was told to end may take a moment.
    eventually([&] {
      std::error_code none;
      for (const auto& entry : std::filesystem::directory_iterator(parent, none)) {
        if (entry.is_directory(none)) ::rmdir(entry.path().c_str());
      }
      return ::rmdir(parent.c_str()) == 0 || errno != EBUSY;
    });
  }
}

std::vector<std::string> Jails::command(const std::string& id, const std::vector<std::string>& options,
                                        const std::vector<std::string>& words) const {
  std::vector<std::string> all = {jailer_program(),    "--id", id, "--exec-file", probe_,
                                  "--chroot-base-dir", base()};
  const auto has = [&](const char* flag) { return std::ranges::find(options, flag) != options.end(); };
  if (!has("--userns") && !has("--uid")) all.insert(all.end(), {"--uid", std::to_string(kUid)});
  if (!has("--userns") && !has("--gid")) all.insert(all.end(), {"--gid", std::to_string(kGid)});
  all.insert(all.end(), options.begin(), options.end());
  all.push_back("--");
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

std::string Jails::all_that_is_left() const {
  std::string found;
  std::error_code none;
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(base(), none)) {
    lines.push_back(entry.path().string());
  }
  if (std::filesystem::exists(base())) lines.push_back(base());
  for (const auto& hierarchy : std::filesystem::directory_iterator("/sys/fs/cgroup", none)) {
    if (hierarchy.path().filename() == name_) lines.push_back(hierarchy.path().string());
    for (const std::filesystem::path& place : {hierarchy.path(), hierarchy.path() / name_}) {
      for (const auto& entry : std::filesystem::directory_iterator(place, none)) {
        const std::string path = entry.path().string();
        if (path.find(name_) != std::string::npos && entry.is_directory(none)) lines.push_back(path);
      }
    }
  }
  std::ranges::sort(lines);
  for (const std::string& line : lines) found += line + "\n";
  return found;
}

void check_tie(const std::vector<std::string>& command, const Program::How& how) {
  std::vector<std::string> words = {"/bin/sh", "-c", "setpriv --pdeathsig KILL \"$@\" & echo pid: $!; wait",
                                    "sh"};
  words.insert(words.end(), command.begin(), command.end());
  Program caller(words, how);
  caller.wait_for("ready");
  const pid_t jail = std::stoi(caller.value("pid"));
  CHECK(!status_of(jail, "State").starts_with("Z"));
  ::kill(caller.pid(), SIGKILL);
  CHECK(eventually([&] {
    const std::string state = status_of(jail, "State");
    return state.empty() || state.starts_with("Z");
  }));
}

std::string status_of(pid_t pid, std::string_view name) {
  const auto text = base::read_file(fmt::format("/proc/{}/status", pid));
  if (!text) return {};
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(std::string(name) + ":")) continue;
    std::string value = line.substr(name.size() + 1);
    value.erase(0, value.find_first_not_of(" \t"));
    while (value.ends_with(' ')) value.pop_back();
    return value;
  }
  return {};
}

}  // namespace mayfly::test
