// `mayfly run --detach` and what is done with its machine, as processes, with the fake VMM.
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/unique_fd.h"
#include "cli/machine_registry.h"
#include "tests/support/eventually.h"
#include "tests/support/pipe.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;
using Catch::Matchers::Contains;
using test::eventually;
using Words = std::vector<std::string>;

namespace {

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

// Processes with a runtime folder of their own.
class Host {
 public:
  // All that was started there has to end.
  ~Host() {
    for (const FoundMachine& each : machines()) ::kill(each.facts.pid, SIGKILL);
    CHECK(eventually([&] { return machines().empty(); }));
  }

  struct Process {
    pid_t pid;
    base::UniqueFd out;
    base::UniqueFd err;
  };
  Process start(Words words) const {
    test::Pipe out;
    test::Pipe err;
    const auto folder = base::executable_folder();
    REQUIRE(folder.has_value());
    const std::string program = *folder + "/run_fake";
    words.insert(words.begin(), program);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      ::dup2(out.write.get(), STDOUT_FILENO);
      ::dup2(err.write.get(), STDERR_FILENO);
      ::setenv("XDG_RUNTIME_DIR", folder_.path("").c_str(), 1);
      ::execv(program.c_str(), arguments.data());
      ::_exit(99);
    }
    return {pid, std::move(out.read), std::move(err.read)};
  }
  // Until both outputs end: whoever is left behind in the background must not hold them.
  static Outcome finish(Process process) {
    Outcome outcome{.status = -1, .out = read_all(process.out), .err = read_all(process.err)};
    int status = 0;
    ::waitpid(process.pid, &status, 0);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    return outcome;
  }
  Outcome run(Words words) const { return finish(start(std::move(words))); }

  // Until it has asked the one who keeps a machine: it has a connection, and nothing shows what went over it.
  static void expect_to_ask(const Process& process) {
    REQUIRE(eventually([&] {
      std::error_code error;
      for (const auto& each :
           std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", process.pid), error)) {
        if (std::filesystem::read_symlink(each.path(), error).string().starts_with("socket:")) return true;
      }
      return false;
    }));
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }

  std::vector<FoundMachine> machines() const { return find_machines_below({folder_.path("mayfly")}); }
  // Nothing of any machine, on disk or running.
  bool nothing_left() const {
    if (!machines().empty()) return false;
    for (const auto& each : std::filesystem::recursive_directory_iterator(folder_.path(""))) {
      if (!each.is_directory() && each.path().filename() != ".lock") return false;
    }
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      const auto environment = base::read_file(entry.path().string() + "/environ");
      if (environment && environment->find(folder_.path("")) != std::string::npos) return false;
    }
    return true;
  }

 private:
  static std::string read_all(const base::UniqueFd& fd) {
    std::string all;
    std::array<char, 4096> buffer;
    for (;;) {
      const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
      if (n <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }
  test::TemporaryFolder folder_;
};

const Words kStays = {"sh", "-c",
                      "trap 'echo bye; exit 4' TERM; echo out; echo err >&2; while :; do sleep 0.05; done"};

Words detach(Words options, const Words& command) {
  options.insert(options.begin(), "--detach");
  options.insert(options.end(), {"--kernel", "k", "--"});
  options.insert(options.end(), command.begin(), command.end());
  return options;
}

}  // namespace

TEST_CASE("a detached machine: started, listed, read, stopped") {
  const Host host;
  const Outcome started = host.run(detach({"--name", "one"}, kStays));
  CHECK(started.status == 0);
  CHECK(started.out == "one\n");
  CHECK(started.err.empty());
  CHECK(host.run({"@ps", "--quiet"}).out == "one\n");
  const auto listed = nlohmann::json::parse(host.run({"@ps", "--json"}).out);
  REQUIRE(listed.size() == 1);
  CHECK(listed[0]["name"] == "one");
  CHECK(listed[0]["command"] == nlohmann::json(kStays));
  CHECK(eventually([&] {
    const Outcome logs = host.run({"@logs", "one"});
    return logs.out == "out\n" && logs.err == "err\n";
  }));
  CHECK(host.run({"@logs", "--tail", "0", "one"}).out.empty());

  auto follower = host.start({"@logs", "-f", "one"});
  auto waiter = host.start({"@wait", "one"});
  Host::expect_to_ask(follower);
  Host::expect_to_ask(waiter);
  CHECK(host.run({"@stop", "one"}).status == 0);
  CHECK(host.machines().empty());
  CHECK(Host::finish(std::move(waiter)).status == 4);
  CHECK(Host::finish(std::move(follower)).out == "out\nbye\n");
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("a name is one machine's at a time, and one is made up") {
  const Host host;
  REQUIRE(host.run(detach({"--name", "one"}, kStays)).status == 0);
  const Outcome again = host.run(detach({"--name", "one"}, kStays));
  CHECK(again.status == 125);
  CHECK_THAT(again.err, Contains("one runs already"));
  const Outcome unnamed = host.run(detach({}, kStays));
  CHECK(unnamed.status == 0);
  CHECK(host.machines().size() == 2);
  const Outcome unknown = host.run({"@stop", "three"});
  CHECK(unknown.status == 125);
  CHECK_THAT(unknown.err, Contains("no machine named three") && Contains("one"));
  CHECK(host.run({"@kill", "one", unnamed.out.substr(0, unnamed.out.size() - 1)}).status == 0);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("a detached run that does not get as far as its command says why") {
  const Host host;
  const Outcome missing = host.run(detach({}, {"nonesuch"}));
  CHECK(missing.status == 127);
  CHECK_THAT(missing.err, Contains("mayfly: nonesuch"));
  CHECK(missing.out.empty());
  const Outcome panic = host.run({"--detach", "--kernel", "panic", "--", "true"});
  CHECK(panic.status == 125);
  CHECK_THAT(panic.err, Contains("the guest kernel panicked"));
  const Outcome silent = host.run({"--detach", "--kernel", "silent", "--boot-timeout", "0.2"});
  CHECK(silent.status == 125);
  CHECK_THAT(silent.err, Contains("--boot-timeout"));
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("without a command a machine stays until it is stopped") {
  const Host host;
  REQUIRE(host.run({"--detach", "--name", "idle", "--kernel", "idle"}).status == 0);
  CHECK(host.machines().size() == 1);
  CHECK(host.run({"@stop", "idle"}).status == 0);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("two stops at once, of a command that does not heed SIGTERM") {
  const Host host;
  REQUIRE(host.run(detach({"--name", "one"}, {"sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"}))
              .status == 0);
  auto slow = host.start({"@stop", "--timeout", "1000", "one"});
  auto quick = host.start({"@stop", "--timeout", "0.2", "one"});
  CHECK(Host::finish(std::move(quick)).status == 0);
  CHECK(Host::finish(std::move(slow)).status == 0);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("many stops at once, of a command that ends at once") {
  const Host host;
  for (int round = 0; round < 5; ++round) {
    REQUIRE(host.run(detach({"--name", "one"}, {"sleep", "1000"})).status == 0);
    std::vector<Host::Process> stops;
    for (int i = 0; i < 8; ++i) stops.push_back(host.start({"@stop", "one"}));
    for (Host::Process& each : stops) {
      const Outcome outcome = Host::finish(std::move(each));
      // Who looks when it is gone already is told so.
      if (outcome.status != 0) CHECK_THAT(outcome.err, Contains("no machine named one"));
    }
    CHECK(host.machines().empty());
  }
}

TEST_CASE("--timeout ends a detached machine") {
  const Host host;
  REQUIRE(host.run(detach({"--name", "one", "--timeout", "3"}, {"sleep", "1000"})).status == 0);
  CHECK(host.run({"@wait", "one"}).status == 124);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("who keeps a machine is killed, and nothing is left of it") {
  const Host host;
  REQUIRE(host.run(detach({"--name", "one"}, kStays)).status == 0);
  const auto machines = host.machines();
  REQUIRE(machines.size() == 1);
  auto waiter = host.start({"@wait", "one"});
  Host::expect_to_ask(waiter);
  ::kill(machines[0].facts.pid, SIGKILL);
  CHECK(eventually([&] { return host.nothing_left(); }));
  CHECK(Host::finish(std::move(waiter)).status == 125);
  CHECK(host.run({"@ps", "-q"}).out.empty());
}

TEST_CASE("SIGTERM to who keeps a machine stops it in good order") {
  const Host host;
  REQUIRE(host.run(detach({"--name", "one"}, kStays)).status == 0);
  auto waiter = host.start({"@wait", "one"});
  const auto machines = host.machines();
  REQUIRE(machines.size() == 1);
  Host::expect_to_ask(waiter);
  ::kill(machines[0].facts.pid, SIGTERM);
  CHECK(Host::finish(std::move(waiter)).status == 4);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("ten at once") {
  const Host host;
  std::vector<Host::Process> processes;
  for (int i = 0; i < 10; ++i) processes.push_back(host.start(detach({}, kStays)));
  Words names = {"@kill"};
  for (Host::Process& each : processes) {
    const Outcome outcome = Host::finish(std::move(each));
    CHECK(outcome.status == 0);
    names.push_back(outcome.out.substr(0, outcome.out.size() - 1));
  }
  CHECK(host.machines().size() == 10);
  CHECK(host.run(names).status == 0);
  CHECK(eventually([&] { return host.nothing_left(); }));
}

TEST_CASE("a run that is ended before its machine is up takes it along") {
  const Host host;
  auto process = host.start({"--detach", "--name", "one", "--kernel", "silent"});
  REQUIRE(eventually([&] { return !host.machines().empty(); }));
  ::kill(process.pid, SIGINT);
  CHECK(Host::finish(std::move(process)).status == 1000 + SIGINT);
  CHECK(eventually([&] { return host.nothing_left(); }));
}
