// `mayfly run` as a process, with the fake VMM.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "tests/support/eventually.h"
#include "tests/support/pipe.h"

using namespace mayfly;
using Catch::Matchers::Contains;
using test::eventually;
using test::kDeadline;
using test::Pipe;
using Words = std::vector<std::string>;

namespace {

// A run with a runtime folder of its own, which must be empty after it.
class Run {
 public:
  explicit Run(Words words) {
    REQUIRE(::mkdtemp(runtime_.data()) != nullptr);
    Pipe stdin_pipe;
    Pipe stdout_pipe;
    Pipe stderr_pipe;
    start(std::move(words), {stdin_pipe.read.get(), stdout_pipe.write.get(), stderr_pipe.write.get()}, false);
    input = std::move(stdin_pipe.write);
    output = std::move(stdout_pipe.read);
    errors = std::move(stderr_pipe.read);
  }
  // On a terminal.
  Run(Words words, int terminal) {
    REQUIRE(::mkdtemp(runtime_.data()) != nullptr);
    start(std::move(words), {terminal, terminal, terminal}, true);
  }
  ~Run() {
    if (pid > 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(runtime_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  // The exit status; what was printed is in `out` and `err`, nothing is left.
  int finish() {
    input.reset();
    collect();
    return wait();
  }
  int wait() {
    int status = 0;
    REQUIRE(eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }));
    pid = -1;
    CHECK(eventually([&] { return nothing_left(); }));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  // Reads until both outputs are at their end.
  void collect() {
    std::array<pollfd, 2> fds = {{{output.get(), POLLIN, 0}, {errors.get(), POLLIN, 0}}};
    std::array<std::string*, 2> texts = {&out, &err};
    while (fds[0].fd >= 0 || fds[1].fd >= 0) {
      REQUIRE(::poll(fds.data(), fds.size(), static_cast<int>(std::chrono::milliseconds(kDeadline).count())) >
              0);
      for (std::size_t i = 0; i < fds.size(); ++i) {
        if (fds[i].revents == 0) continue;
        std::array<char, 4096> buffer;
        const ssize_t n = ::read(fds[i].fd, buffer.data(), buffer.size());
        if (n > 0) texts[i]->append(buffer.data(), static_cast<std::size_t>(n));
        if (n <= 0) fds[i].fd = -1;
      }
    }
  }
  void expect_output(const std::string& text) {
    while (out.find(text) == std::string::npos) {
      std::array<char, 256> buffer;
      const ssize_t n = ::read(output.get(), buffer.data(), buffer.size());
      REQUIRE(n > 0);
      out.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }
  bool nothing_left() const {
    const std::filesystem::path folder = runtime_ + "/mayfly";
    return !std::filesystem::exists(folder) || std::filesystem::is_empty(folder);
  }
  // Processes, other than this one, that mention the run's folder or hold it in their environment.
  bool no_process_left() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const auto environment = base::read_file(entry.path().string() + "/environ");
      if (environment && environment->find(runtime_) != std::string::npos) return false;
    }
    return true;
  }

  pid_t pid = -1;
  base::UniqueFd input;
  base::UniqueFd output;
  base::UniqueFd errors;
  std::string out;
  std::string err;

 private:
  void start(Words words, std::array<int, 3> fds, bool session) {
    const auto folder = base::executable_folder();
    REQUIRE(folder.has_value());
    const std::string program = *folder + "/run_fake";
    words.insert(words.begin(), program);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid > 0) return;
    if (session) {
      ::setsid();
      ::ioctl(fds[0], TIOCSCTTY, 0);
    }
    for (int i = 0; i < 3; ++i) ::dup2(fds[static_cast<std::size_t>(i)], i);
    ::setenv("XDG_RUNTIME_DIR", runtime_.c_str(), 1);
    ::execv(program.c_str(), arguments.data());
    ::_exit(99);
  }
  std::string runtime_ = "/tmp/mayfly-run.XXXXXX";
};

}  // namespace

TEST_CASE("output, errors and status are the command's") {
  Run run({"--", "sh", "-c", "echo out; echo err >&2; exit 7"});
  CHECK(run.finish() == 7);
  CHECK(run.out == "out\n");
  CHECK(run.err == "err\n");
}

TEST_CASE("input reaches the command, with its end") {
  Run run({"--", "wc", "-c"});
  REQUIRE(::write(run.input.get(), "12345", 5) == 5);
  CHECK(run.finish() == 0);
  CHECK(run.out == "5\n");
}

TEST_CASE("environment and working directory") {
  Run run({"-e", "A=x y", "--workdir", "/usr", "--", "sh", "-c", "echo \"$A\"; pwd"});
  CHECK(run.finish() == 0);
  CHECK(run.out == "x y\n/usr\n");
}

TEST_CASE("a command that is not there or cannot be run") {
  Run missing({"--", "nonesuch"});
  CHECK(missing.finish() == 127);
  CHECK_THAT(missing.err, Contains("mayfly: nonesuch"));
  Run folder({"--", "/usr"});
  CHECK(folder.finish() == 126);
}

TEST_CASE("a signal that kills the command is in the status") {
  Run run({"--", "sh", "-c", "kill -SEGV $$"});
  CHECK(run.finish() == 128 + SIGSEGV);
}

TEST_CASE("signals reach the command") {
  for (const int signal : {SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2}) {
    Run run({"--", "sh", "-c",
             "trap 'exit 9' INT TERM QUIT HUP USR1 USR2; echo ready; while :; do sleep 0.05; done"});
    run.expect_output("ready");
    ::kill(run.pid, signal);
    CHECK(run.finish() == 9);
  }
}

TEST_CASE("three signals that nobody heeds end the machine") {
  Run run({"--", "sh", "-c", "trap '' INT; echo ready; while :; do sleep 0.05; done"});
  run.expect_output("ready");
  // Signals of one kind merge while they wait: as many as it takes, within the time that counts.
  const auto ended = [&] {
    ::kill(run.pid, SIGINT);
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(run.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == run.pid;
  };
  CHECK(eventually(ended));
  CHECK(run.finish() == 130);
}

TEST_CASE("a signal before the command runs ends mayfly") {
  Run run({"--kernel", "silent", "--", "true"});
  // It is ours to end once its folder is there.
  REQUIRE(eventually([&] { return !run.nothing_left(); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ::kill(run.pid, SIGTERM);
  const int status = run.finish();
  CHECK((status == 143 || status == 1000 + SIGTERM));
}

TEST_CASE("--timeout") {
  Run polite({"--timeout", "0.5", "--", "sleep", "1000"});
  CHECK(polite.finish() == 124);
  CHECK(polite.err.empty());
  Run stubborn({"--timeout", "0.5", "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"});
  CHECK(stubborn.finish() == 124);
  Run booting({"--timeout", "0.5", "--kernel", "silent", "--", "true"});
  CHECK(booting.finish() == 124);
}

TEST_CASE("a machine that ends before its command does") {
  const auto said = [](const char* how) {
    Run run({"--", how});
    CHECK(run.finish() == 125);
    return run.err;
  };
  const std::string panic = said("@panic");
  CHECK_THAT(panic, Contains("mayfly: the guest kernel panicked") && Contains("Kernel panic - not syncing"));
  CHECK(panic.find('\033') == std::string::npos);
  CHECK_THAT(said("@reset"), Contains("before the command did"));
  CHECK_THAT(said("@triple-fault"), Contains("triple fault"));
  CHECK_THAT(said("@kvm-error"), Contains("KVM_RUN"));
  CHECK_THAT(said("@killed"), Contains("signal 9"));
}

TEST_CASE("a guest that lies") {
  for (const char* how : {"@absurd-length", "@unknown-frame", "@exit-before-start", "@hello-again",
                          "@bad-status", "@hang-up"}) {
    Run run({"--", how});
    CHECK(run.finish() == 125);
    CHECK_THAT(run.err, Contains("mayfly: the guest"));
  }
}

TEST_CASE("a boot that goes wrong") {
  const auto said = [](const char* kernel) {
    Run run({"--boot-timeout", "1", "--memory", "32", "--kernel", kernel, "--", "true"});
    CHECK(run.finish() == 125);
    return run.err;
  };
  CHECK_THAT(said("refuse"), Contains("could not be started: kernel: refused"));
  CHECK_THAT(said("panic"), Contains("panicked (32 MiB may be too little"));
  CHECK_THAT(said("silent"), Contains("--boot-timeout"));
  CHECK_THAT(said("bad-magic"), Contains("preamble"));
  CHECK_THAT(said("flood"), Contains("says nothing"));
  CHECK_THAT(said("twice"), Contains("twice"));
}

TEST_CASE("a machine that writes to its image is asked to end") {
  Run run({"--writable", "--", "sh", "-c", "exit 4"});
  CHECK(run.finish() == 4);
  Run missing({"--writable", "--", "nonesuch"});
  CHECK(missing.finish() == 127);
}

TEST_CASE("when mayfly is killed, everything goes with it, and no pipeline waits") {
  Run run({"--", "sh", "-c", "echo ready; sleep 1000"});
  run.expect_output("ready");
  ::kill(run.pid, SIGKILL);
  run.collect();  // returns only when nobody holds our pipes open
  CHECK(run.wait() == 1000 + SIGKILL);
  CHECK(run.nothing_left());
}

TEST_CASE("the reader of a pipeline that leaves first stops the command") {
  Run run({"--", "yes"});
  run.expect_output("y\n");
  run.output.reset();
  // The fake guest's commands write to a socket, which may say ECONNRESET instead of raising SIGPIPE.
  const int status = run.wait();
  CHECK((status == 128 + SIGPIPE || status == 1));
}

TEST_CASE("--console and --timing go to standard error") {
  Run run({"--console", "--timing=json", "--", "echo", "out"});
  CHECK(run.finish() == 0);
  CHECK(run.out == "out\n");
  CHECK_THAT(run.err, Contains("\"phases\":[{\"name\":\"process start\"") && Contains("\"ended\""));
  Run table({"--timing", "--", "true"});
  CHECK(table.finish() == 0);
  CHECK_THAT(table.err, Contains("command started"));
}

TEST_CASE("--tty needs a terminal") {
  Run run({"--tty", "--", "sh"});
  CHECK(run.finish() == 125);
  CHECK_THAT(run.err, Contains("not a terminal"));
}

namespace {

// A terminal with a test at its other side.
struct Terminal {
  base::UniqueFd master{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
  base::UniqueFd slave;
  std::string seen;
  Terminal() {
    REQUIRE(master.valid());
    REQUIRE(::grantpt(master.get()) == 0);
    REQUIRE(::unlockpt(master.get()) == 0);
    slave.reset(::open(::ptsname(master.get()), O_RDWR | O_NOCTTY | O_CLOEXEC));
    REQUIRE(slave.valid());
    resize(30, 100);
  }
  void resize(unsigned short rows, unsigned short columns) const {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    REQUIRE(::ioctl(master.get(), TIOCSWINSZ, &size) == 0);
  }
  void type(std::string_view keys) const {
    REQUIRE(::write(master.get(), keys.data(), keys.size()) == static_cast<ssize_t>(keys.size()));
  }
  void expect(const std::string& text) {
    while (seen.find(text) == std::string::npos) {
      pollfd entry{.fd = master.get(), .events = POLLIN, .revents = 0};
      INFO("seen: " << seen);
      REQUIRE(::poll(&entry, 1, static_cast<int>(std::chrono::milliseconds(kDeadline).count())) > 0);
      std::array<char, 256> buffer;
      const ssize_t n = ::read(master.get(), buffer.data(), buffer.size());
      REQUIRE(n > 0);
      seen.append(buffer.data(), static_cast<std::size_t>(n));
    }
    seen.clear();
  }
  bool raw() const {
    termios modes{};
    REQUIRE(::tcgetattr(slave.get(), &modes) == 0);
    return (modes.c_lflag & ICANON) == 0;
  }
};

constexpr const char* kShell =
    "trap 'echo interrupted' INT; echo ready; while :; do read x && eval \"$x\"; done";

}  // namespace

TEST_CASE("a terminal: raw while the command runs, its keys, its size, and put back") {
  Terminal terminal;
  Run run({"--tty", "--", "sh", "-c", kShell}, terminal.slave.get());
  terminal.expect("ready");
  CHECK(terminal.raw());
  terminal.type("stty size; echo TERM=${TERM:+set}\r");
  terminal.expect("30 100");
  terminal.resize(40, 120);
  CHECK(eventually([&] {
    terminal.type("stty size\r");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    std::array<char, 4096> buffer;
    const ssize_t n = ::read(terminal.master.get(), buffer.data(), buffer.size());
    return std::string(buffer.data(), static_cast<std::size_t>(std::max<ssize_t>(n, 0))).find("40 120") !=
           std::string::npos;
  }));
  terminal.type("\003");  // Ctrl-C: a key like others here
  terminal.expect("interrupted");
  terminal.type("exit 5\r");
  CHECK(run.wait() == 5);
  CHECK(!terminal.raw());
}

TEST_CASE("a terminal is put back when a signal ends the command, or the VMM goes") {
  for (const bool kill_vmm : {false, true}) {
    Terminal terminal;
    Run run({"--tty", "--", "sh", "-c", kShell}, terminal.slave.get());
    terminal.expect("ready");
    CHECK(terminal.raw());
    if (kill_vmm) {
      // The shell's parent is the fake VMM.
      terminal.type("kill -9 $PPID\r");
      CHECK(run.wait() == 125);
    } else {
      ::kill(run.pid, SIGTERM);
      CHECK(run.wait() == 128 + SIGTERM);
    }
    CHECK(!terminal.raw());
  }
}

TEST_CASE("a terminal is put back when mayfly itself crashes") {
  Terminal terminal;
  Run run({"--tty", "--", "sh", "-c", kShell}, terminal.slave.get());
  terminal.expect("ready");
  CHECK(terminal.raw());
  ::kill(run.pid, SIGSEGV);
  CHECK(run.wait() == 1000 + SIGSEGV);
  CHECK(!terminal.raw());
}
