#include "cli/passt.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <sstream>
#include <utility>

#include "cli/tool.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr int kSocketFd = 3;

std::string port_word(const Publish& publish) {
  const std::string address = publish.address ? to_text(*publish.address) + "/" : "";
  return fmt::format("{}{}:{}", address, publish.host_port, publish.guest_port);
}

// One option for each protocol would do for one address only: ports of several come one by one.
void add_ports(std::vector<std::string>& words, const char* option, const std::vector<Publish>& publishes,
               bool udp) {
  bool any = false;
  for (const Publish& publish : publishes) {
    if (publish.udp != udp) continue;
    any = true;
    words.insert(words.end(), {option, port_word(publish)});
  }
  if (!any) words.insert(words.end(), {option, "none"});
}

class SpawnFiles {
 public:
  SpawnFiles() { ::posix_spawn_file_actions_init(&files_); }
  ~SpawnFiles() { ::posix_spawn_file_actions_destroy(&files_); }
  SpawnFiles(const SpawnFiles&) = delete;
  SpawnFiles& operator=(const SpawnFiles&) = delete;
  posix_spawn_file_actions_t* get() { return &files_; }

 private:
  posix_spawn_file_actions_t files_{};
};

// passt expects to wait for the rest of a frame, in both directions: where the socket does not wait, it goes
// on in the middle of one.
Status make_blocking(int socket) {
  const int flags = ::fcntl(socket, F_GETFL);
  if (flags < 0 || ::fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) < 0) {
    return fail_errno(errno, "set up passt's socket");
  }
  return {};
}

Result<pid_t> start(const std::string& file, std::vector<std::string> words, int socket, int errors) {
  SpawnFiles files;
  ::posix_spawn_file_actions_addopen(files.get(), STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(files.get(), errors, STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(files.get(), errors, STDERR_FILENO);
  ::posix_spawn_file_actions_adddup2(files.get(), socket, kSocketFd);
  posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  // Signals typed at our terminal are for the command in the guest.
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  const int error = ::posix_spawn(&pid, file.c_str(), files.get(), &attributes, arguments.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) return fail_errno(error, "run {}", file);
  return pid;
}

}  // namespace

std::vector<std::string> passt_words(const PasstPlan& plan, int fd) {
  std::vector<std::string> words = {"passt",       "--foreground", "--quiet",     "--stderr",
                                    "--ipv4-only", "--no-dhcp",    "--no-dhcpv6", "--no-ndp",
                                    "--no-ra",     "--no-map-gw",  "--mtu",       fmt::to_string(kPasstMtu)};
  words.insert(words.end(), {"--address", to_text(plan.guest.address), "--netmask",
                             fmt::to_string(plan.guest.prefix), "--gateway", to_text(plan.gateway)});
  if (plan.nameserver) words.insert(words.end(), {"--dns-forward", to_text(*plan.nameserver)});
  add_ports(words, "--tcp-ports", plan.publishes, false);
  add_ports(words, "--udp-ports", plan.publishes, true);
  words.insert(words.end(), {"--fd", fmt::to_string(fd)});
  return words;
}

Result<std::unique_ptr<Passt>> Passt::spawn(base::EventLoop& loop, const PasstPlan& plan, UniqueFd socket,
                                            std::function<void(std::string)> on_end) {
  const std::string file = TRY(find_tool("passt"));
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  std::unique_ptr<Passt> passt(new Passt(loop, std::move(on_end)));
  passt->errors_.reset(ends[0]);
  const UniqueFd writer(ends[1]);
  // Out of the way of the number that it gets in the child.
  const UniqueFd high(::fcntl(socket.get(), F_DUPFD_CLOEXEC, kSocketFd + 1));
  const UniqueFd high_writer(::fcntl(writer.get(), F_DUPFD_CLOEXEC, kSocketFd + 1));
  if (!high.valid() || !high_writer.valid()) return fail_errno(errno, "duplicate a file descriptor");
  if (::fcntl(passt->errors_.get(), F_SETFL, O_NONBLOCK) < 0) return fail_errno(errno, "set up a pipe");
  TRY(make_blocking(high.get()));
  passt->pid_ = TRY(start(file, passt_words(plan, kSocketFd), high.get(), high_writer.get()));
  passt->pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, passt->pid_, 0)));
  if (!passt->pidfd_.valid()) return fail_errno(errno, "watch a process");
  TRY(loop.add(passt->pidfd_.get(), EPOLLIN, [raw = passt.get()](std::uint32_t) { raw->reap(); }));
  TRY(loop.add(passt->errors_.get(), EPOLLIN, [raw = passt.get()](std::uint32_t) { raw->read_errors(); }));
  return passt;
}

Passt::~Passt() {
  if (pidfd_.valid()) loop_.remove(pidfd_.get());
  if (errors_.valid()) loop_.remove(errors_.get());
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Passt::read_errors() {
  std::array<char, 4096> buffer;
  for (;;) {
    const ssize_t n = ::read(errors_.get(), buffer.data(), buffer.size());
    if (n > 0) {
      tail_.add({buffer.data(), static_cast<std::size_t>(n)});
      continue;
    }
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    return loop_.remove(errors_.get());
  }
}

void Passt::reap() {
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return;
  pid_ = -1;
  loop_.remove(pidfd_.get());
  read_errors();
  const std::string how = WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status))
                                              : fmt::format("status {}", WEXITSTATUS(status));
  // May destroy us.
  loop_.post([on_end = on_end_, text = fmt::format("passt ended ({}): {}", how, passt_reason(tail_.text()))] {
    on_end(text);
  });
}

std::string passt_reason(const std::string& printed) {
  std::istringstream lines(printed);
  std::string reason;
  for (std::string line; std::getline(lines, line);) {
    // Without a syslog it complains of that in between.
    if (line.empty() || line.starts_with("Failed to send ")) continue;
    reason = line;
  }
  return reason.empty() ? "no reason given" : reason;
}

}  // namespace mayfly::cli
