#include "command.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lab {
namespace {

enum class Stage : int { kDirectory, kExec };

struct Failure {
  Stage stage;
  int error;
};

void write_file(const std::string& path, std::string_view text) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd >= 0) {
    (void)!write(fd, text.data(), text.size());
    close(fd);
  }
}

void close_if_open(int& fd) {
  if (fd >= 0) {
    close(fd);
  }
  fd = -1;
}

// The six ends of the command's streams, and the terminal if it has one.
struct Streams {
  int in[2] = {-1, -1};
  int out[2] = {-1, -1};
  int err[2] = {-1, -1};
  int master = -1;
  int slave = -1;
};

bool open_streams(const StartHeader& header, Streams& s) {
  if ((header.flags & kFlagTerminal) != 0) {
    s.master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s.master < 0 || unlockpt(s.master) < 0) {
      return false;
    }
    s.slave = ioctl(s.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s.slave < 0) {
      return false;
    }
    const winsize size{.ws_row = header.rows, .ws_col = header.columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ioctl(s.master, TIOCSWINSZ, &size);
  } else if (pipe2(s.in, O_CLOEXEC) < 0 || pipe2(s.out, O_CLOEXEC) < 0) {
    return false;
  }
  return (header.flags & kFlagTerminalStderr) != 0 || pipe2(s.err, O_CLOEXEC) == 0;
}

[[noreturn]] void run_child(const Request& request, const Streams& s, const std::string& group, int report) {
  write_file(group + "/cgroup.procs", "0");
  setsid();
  const bool terminal = s.slave >= 0;
  if (terminal) {
    ioctl(s.slave, TIOCSCTTY, 0);
  }
  dup2(terminal ? s.slave : s.in[0], STDIN_FILENO);
  dup2(terminal ? s.slave : s.out[1], STDOUT_FILENO);
  dup2(s.err[1] >= 0 ? s.err[1] : s.slave, STDERR_FILENO);

  for (int number = 1; number < NSIG; ++number) {
    signal(number, SIG_DFL);
  }
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  umask(request.header.umask);

  Failure failure{.stage = Stage::kDirectory, .error = 0};
  if (chdir(request.directory.c_str()) == 0) {
    failure.stage = Stage::kExec;
    clearenv();
    for (const std::string& entry : request.environment) {
      putenv(const_cast<char*>(entry.c_str()));
    }
    std::vector<char*> argv;
    for (const std::string& argument : request.arguments) {
      argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());
  }
  failure.error = errno;
  (void)!write(report, &failure, sizeof failure);
  _exit(127);
}

std::string describe(const Request& request, const Failure& failure, int& status) {
  const std::string reason = strerror(failure.error);
  if (failure.stage == Stage::kDirectory) {
    status = 125;
    return "cannot enter the working directory " + request.directory + " inside the lab: " + reason;
  }
  status = failure.error == ENOENT ? 127 : 126;
  return request.arguments[0] + (failure.error == ENOENT ? ": command not found" : ": " + reason);
}

void keep(int& fd) {
  fcntl(fd, F_SETFL, O_NONBLOCK);
}

}  // namespace

bool Request::parse(std::string_view message, Request& request) {
  if (message.size() < sizeof(StartHeader)) {
    return false;
  }
  std::memcpy(&request.header, message.data(), sizeof(StartHeader));
  message.remove_prefix(sizeof(StartHeader));
  std::vector<std::string> strings;
  for (std::size_t end = 0; (end = message.find('\0')) != std::string_view::npos;) {
    strings.emplace_back(message.substr(0, end));
    message.remove_prefix(end + 1);
  }
  const std::size_t argc = request.header.argc;
  const std::size_t envc = request.header.envc;
  if (argc == 0 || strings.size() != 1 + argc + envc || !message.empty()) {
    return false;
  }
  const auto arguments = strings.begin() + 1;
  const auto environment = arguments + static_cast<std::ptrdiff_t>(argc);
  request.directory = strings[0];
  request.arguments.assign(arguments, environment);
  request.environment.assign(environment, strings.end());
  return true;
}

Command Command::start(const Request& request, const std::string& group, int& status, std::string& message) {
  Command command;
  Streams s;
  int report[2] = {-1, -1};
  pid_t pid = -1;
  if (open_streams(request.header, s) && pipe2(report, O_CLOEXEC) == 0) {
    pid = fork();
  }
  if (pid == 0) {
    run_child(request, s, group, report[1]);
  }
  const int error = errno;
  for (int* fd : {&s.in[0], &s.out[1], &s.err[1], &s.slave, &report[1]}) {
    close_if_open(*fd);
  }
  command.terminal = s.master >= 0;
  command.in = command.terminal ? s.master : s.in[1];
  command.out = command.terminal ? s.master : s.out[0];
  command.err = s.err[0];

  Failure failure{.stage = Stage::kExec, .error = error};
  const bool failed = pid < 0 || read(report[0], &failure, sizeof failure) == sizeof failure;
  close_if_open(report[0]);
  if (failed) {
    message = pid < 0 ? std::string("cannot start a process inside the lab: ") + strerror(error)
                      : describe(request, failure, status);
    status = pid < 0 ? 125 : status;
    command.close_in();
    command.close_out();
    command.close_err();
    return command;
  }
  command.pid = pid;
  for (int* fd : {&command.in, &command.out, &command.err}) {
    keep(*fd);
  }
  return command;
}

void Command::close_in() {
  if (terminal) {
    in = -1;  // it is `out` too
  }
  close_if_open(in);
}

void Command::close_out() {
  if (terminal) {
    in = -1;
  }
  close_if_open(out);
}

void Command::close_err() {
  close_if_open(err);
}

void kill_everything(const std::string& group, pid_t pid) {
  write_file(group + "/cgroup.kill", "1");
  if (pid > 0) {
    kill(-pid, SIGKILL);
  }
}

}  // namespace lab
