#include "cli/vmm_process.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <utility>
#include <vector>

#include "base/file.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr int kConfigurationFd = 3;
constexpr int kTimingFd = 4;
constexpr int kFirstFileFd = 5;
// Where the descriptors for the child wait: none of the numbers that it is given.
constexpr int kFirstWaitingFd = kFirstFileFd + VmmProcess::kMostFiles;
constexpr std::size_t kLongestTimingLine = 128;

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) < 0) return fail_errno(errno, "create a pipe");
  Pipe pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
  if (::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK) < 0) return fail_errno(errno, "set up a pipe");
  return pipe;
}

Result<UniqueFd> out_of_the_way(const Result<UniqueFd>& fd) {
  if (!fd) return std::unexpected(fd.error());
  UniqueFd copy(::fcntl(fd->get(), F_DUPFD_CLOEXEC, kFirstWaitingFd));
  if (!copy.valid()) return fail_errno(errno, "duplicate a file descriptor");
  return copy;
}

Result<UniqueFd> file_in_memory(const std::string& content) {
  UniqueFd fd(::memfd_create("mayfly-config", MFD_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "create a file in memory");
  TRY(base::write_all(fd.get(), content));
  ::lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

// Everything the child needs between vfork and exec, made ready before: it shares our memory meanwhile.
struct Plan {
  const char* executable;
  char* const* arguments;
  std::span<const int> fds;  // what becomes 0, 1, 2, …; -1: nothing
  pid_t parent;
  sigset_t no_signals;
  int error;  // of the child, when it could not exec
};

[[noreturn]] void become_vmm(Plan& plan) {
  // Signals typed at our terminal are for the command in the guest, never for the VMM.
  ::setsid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != plan.parent) ::_exit(1);  // we died before it could tell
  ::signal(SIGPIPE, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &plan.no_signals, nullptr);
  for (int fd = 0; fd < static_cast<int>(plan.fds.size()); ++fd) {
    const int source = plan.fds[static_cast<std::size_t>(fd)];
    if (source >= 0 && ::dup2(source, fd) < 0) {
      plan.error = errno;
      ::_exit(1);
    }
  }
  ::execv(plan.executable, plan.arguments);
  plan.error = errno;
  ::_exit(1);
}

// Out of line: nothing that lives across the vfork may be in a register of the caller.
[[gnu::noinline]] pid_t start_child(Plan& plan) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  const pid_t pid = ::vfork();
#pragma GCC diagnostic pop
  if (pid == 0) become_vmm(plan);
  return pid;
}

std::vector<std::string> command_line(const VmmProcess::Request& request, std::span<const int> fds) {
  std::vector<std::string> words = request.jailer;
  if (words.empty()) {
    words.push_back(request.executable);
    if (!request.api_socket.empty()) words.insert(words.end(), {"--id", request.id});
  } else {
    // The jailer tells the VMM its id.
    for (std::size_t fd = kConfigurationFd; fd < fds.size(); ++fd) {
      if (fds[fd] >= 0) words.insert(words.end(), {"--pass-fd", fmt::to_string(fd)});
    }
    words.emplace_back("--");
  }
  words.insert(words.end(), {"--config-file", fmt::format("/dev/fd/{}", kConfigurationFd)});
  if (request.api_socket.empty()) {
    words.emplace_back("--no-api");
  } else {
    words.insert(words.end(), {"--api-sock", request.api_socket});
  }
  if (!request.kvm.empty()) words.insert(words.end(), {"--kvm", request.kvm});
  if (request.timing) words.insert(words.end(), {"--timing-fd", fmt::to_string(kTimingFd)});
  return words;
}

Result<pid_t> execute(const VmmProcess::Request& request, std::span<const int> fds) {
  std::vector<std::string> words = command_line(request, fds);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);

  Plan plan{.executable = words.front().c_str(),
            .arguments = arguments.data(),
            .fds = fds,
            .parent = ::getpid(),
            .no_signals = {},
            .error = 0};
  ::sigemptyset(&plan.no_signals);
  const pid_t pid = start_child(plan);
  if (pid < 0) return fail_errno(errno, "start a process");
  if (plan.error != 0) {
    ::waitpid(pid, nullptr, 0);
    return fail_errno(plan.error, "run {}", words.front());
  }
  return pid;
}

}  // namespace

std::string VmmProcess::path_of(std::size_t index) {
  return fmt::format("/dev/fd/{}", kFirstFileFd + index);
}

Result<std::unique_ptr<VmmProcess>> VmmProcess::spawn(base::EventLoop& loop, Request request, Console console,
                                                      Observer observer) {
  const UniqueFd input = TRY(out_of_the_way(console.input.valid() ? Result<UniqueFd>(std::move(console.input))
                                                                  : base::open_file("/dev/null", O_RDONLY)));
  const UniqueFd configuration = TRY(out_of_the_way(file_in_memory(request.configuration)));
  Pipe output = TRY(make_pipe());
  Pipe errors = TRY(make_pipe());
  Pipe timing;
  if (request.timing) timing = TRY(make_pipe());
  const UniqueFd output_end = TRY(out_of_the_way(std::move(output.write)));
  const UniqueFd error_end = TRY(out_of_the_way(std::move(errors.write)));
  UniqueFd timing_end;
  if (request.timing) timing_end = TRY(out_of_the_way(std::move(timing.write)));

  std::unique_ptr<VmmProcess> vmm(new VmmProcess(loop, std::move(observer)));
  std::vector<int> fds = {input.get(), output_end.get(), error_end.get(), configuration.get(),
                          timing_end.get()};
  for (File& file : request.files) {
    file.fd = TRY(out_of_the_way(std::move(file.fd)));
    fds.push_back(file.fd.get());
    vmm->file_names_.push_back(file.name);
  }
  vmm->pid_ = TRY(execute(request, fds));
  vmm->pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, vmm->pid_, 0)));
  if (!vmm->pidfd_.valid()) return fail_errno(errno, "watch a process");
  TRY(loop.add(vmm->pidfd_.get(), EPOLLIN, [raw = vmm.get()](std::uint32_t) { raw->reap(); }));
  vmm->open_ = 2;  // the process and its console

  vmm->error_pipe_ = std::move(errors.read);
  TRY(vmm->watch(vmm->error_pipe_, [raw = vmm.get()](std::string_view bytes) { raw->errors_.add(bytes); }));
  if (request.timing) {
    vmm->timing_pipe_ = std::move(timing.read);
    TRY(vmm->watch(vmm->timing_pipe_,
                   [raw = vmm.get()](std::string_view bytes) { raw->take_timing(bytes); }));
  }
  Pump::Handlers handlers;
  handlers.on_bytes = [raw = vmm.get()](std::span<const std::byte> bytes) {
    std::string text(bytes.size(), '\0');
    std::ranges::transform(bytes, text.begin(), [](std::byte b) { return static_cast<char>(b); });
    raw->console_.add(text);
    if (raw->observer_.on_console) raw->observer_.on_console(text);
  };
  handlers.on_end = [raw = vmm.get()](Pump::Ending, int) {
    raw->console_pump_->source().close();  // a VMM that goes on writing must not wait for us
    raw->one_ended();
  };
  vmm->console_pump_ = TRY(Pump::create(loop, ByteEnd::own(std::move(output.read)), std::move(console.output),
                                        std::move(handlers)));
  return vmm;
}

VmmProcess::~VmmProcess() {
  if (pidfd_.valid()) loop_.remove(pidfd_.get());
  if (error_pipe_.valid()) loop_.remove(error_pipe_.get());
  if (timing_pipe_.valid()) loop_.remove(timing_pipe_.get());
  if (pid_ > 0) {
    kill();
    ::waitpid(pid_, nullptr, 0);
  }
}

std::string VmmProcess::errors() const {
  std::string text = errors_.text();
  for (std::size_t i = 0; i < file_names_.size(); ++i) {
    const std::string path = path_of(i);
    for (std::size_t at = 0; (at = text.find(path, at)) != std::string::npos; at += file_names_[i].size()) {
      text.replace(at, path.size(), file_names_[i]);
    }
  }
  return text;
}

void VmmProcess::kill() {
  if (pid_ > 0) ::kill(pid_, SIGKILL);
}

Status VmmProcess::watch(UniqueFd& fd, std::function<void(std::string_view)> on_bytes) {
  ++open_;
  return loop_.add(fd.get(), EPOLLIN, [this, &fd, on_bytes = std::move(on_bytes)](std::uint32_t) {
    std::array<char, 4096> buffer;
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) return on_bytes(std::string_view(buffer.data(), static_cast<std::size_t>(n)));
    loop_.remove(fd.get());
    one_ended();
  });
}

// Lines "PHASE NANOSECONDS".
void VmmProcess::take_timing(std::string_view bytes) {
  for (const char c : bytes) {
    if (c != '\n') {
      if (timing_line_.size() < kLongestTimingLine) timing_line_.push_back(c);
      continue;
    }
    take_timing_line(timing_line_);
    timing_line_.clear();
  }
}

void VmmProcess::take_timing_line(std::string_view line) const {
  const auto space = std::ranges::find(line, ' ');
  if (space == line.end()) return;
  std::uint64_t ns = 0;
  const auto parsed = std::from_chars(space + 1, line.end(), ns);
  if (parsed.ec == std::errc{} && parsed.ptr == line.end()) observer_.on_phase({line.begin(), space}, ns);
}

void VmmProcess::reap() {
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return;
  loop_.remove(pidfd_.get());
  pid_ = -1;
  end_ = {.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 0,
          .signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0};
  one_ended();
}

void VmmProcess::one_ended() {
  if (--open_ > 0) return;
  // From the loop: the observer may destroy us, and a callback of ours may be on the stack.
  loop_.post([on_end = observer_.on_end, end = end_] { on_end(end); });
}

}  // namespace mayfly::cli
