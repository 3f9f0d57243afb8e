// Networks for `mayfly run --net` as a process, in a network namespace of this program's own. The guest is
// the fake VMM's: it plugs into the network and sends nothing.
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <thread>

#include "base/file.h"
#include "base/unique_fd.h"
#include "cli/ipv4.h"
#include "cli/tap.h"
#include "cli/tool.h"
#include "tests/support/eventually.h"

using namespace mayfly;
using Catch::Matchers::Contains;
using test::eventually;
using Words = std::vector<std::string>;

namespace {

std::string output_of(const Words& words) {
  const cli::HeldSignals signals;
  const auto done = cli::run_tool({.words = words, .environment = {}, .returns_output = true}, signals);
  INFO(words.front() << ": " << (done ? "" : done.error().message));
  REQUIRE(done);
  return *done;
}

// Once for the program, before it has any thread: a namespace with a way out. Its list of networks is another
// one than the host's.
bool in_own_network() {
  static const bool done = [] {
    if (::geteuid() != 0 || ::access("/dev/net/tun", R_OK) != 0) return false;
    for (const char* const tool : {"nft", "ip"}) {
      if (!cli::has_tool(tool)) return false;
    }
    if (::unshare(CLONE_NEWNET) != 0) return false;
    output_of({"ip", "link", "set", "lo", "up"});
    output_of({"ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"});
    output_of({"ip", "address", "add", "192.0.2.2/24", "dev", "up0"});
    output_of({"ip", "link", "set", "up0", "up"});
    output_of({"ip", "link", "set", "up1", "up"});
    output_of({"ip", "route", "add", "default", "via", "192.0.2.1"});
    return true;
  }();
  if (!done) std::cout << "skipped: needs root, /dev/net/tun, nft and ip\n";
  return done;
}

std::string list_path() {
  struct stat space {};
  REQUIRE(::stat("/proc/self/ns/net", &space) == 0);
  return fmt::format("/run/mayfly/network-{}", space.st_ino);
}

bool forwarding(const std::string& interface) {
  return cli::forwards(interface);
}

std::string tables() {
  return output_of({"nft", "list", "tables"});
}

bool nothing_left() {
  return cli::tap_slots().empty() && tables().empty() && !std::filesystem::exists(list_path()) &&
         !forwarding("up0");
}

struct Process {
  pid_t pid;
  pid_t parent;
  std::string name;
  std::string command;
};
std::vector<Process> processes() {
  std::vector<Process> all;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const auto stat = base::read_file(entry.path().string() + "/stat");
    const auto command = base::read_file(entry.path().string() + "/cmdline");
    if (!stat || !command) continue;
    const std::size_t open = stat->find('(');
    const std::size_t close = stat->rfind(')');
    if (open == std::string::npos || close == std::string::npos) continue;
    all.push_back({.pid = std::atoi(stat->c_str()),
                   .parent = std::atoi(stat->c_str() + close + 4),
                   .name = stat->substr(open + 1, close - open - 1),
                   .command = *command});
  }
  return all;
}
// The child of `parent` that is called so; 0: none.
pid_t child(pid_t parent, const std::string& name) {
  for (const Process& each : processes()) {
    if (each.parent == parent && each.name.starts_with(name)) return each.pid;
  }
  return 0;
}

// `mayfly run` with the fake VMM beside it; its outputs go to a file.
class Run {
 public:
  explicit Run(Words words) {
    REQUIRE(::mkdtemp(folder_.data()) != nullptr);
    const auto program = *base::executable_folder() + "/run_fake";
    words.insert(words.begin(), {program, "--kernel", "k"});
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const base::UniqueFd log(::open(log_path().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid > 0) return;
    ::dup2(log.get(), 1);
    ::dup2(log.get(), 2);
    ::setenv("XDG_RUNTIME_DIR", folder_.c_str(), 1);
    ::execv(program.c_str(), arguments.data());
    ::_exit(99);
  }
  ~Run() {
    if (pid > 0) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
    }
    std::filesystem::remove_all(folder_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  [[nodiscard]] std::string log() const { return base::read_file(log_path()).value_or(""); }
  bool says(const std::string& text) const {
    const bool said = eventually([&] { return log().find(text) != std::string::npos; });
    INFO(log());
    CHECK(said);
    return said;
  }
  int finish() {
    int status = 0;
    REQUIRE(eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }));
    pid = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  pid_t pid = -1;

 private:
  [[nodiscard]] std::string log_path() const { return folder_ + "/log"; }
  std::string folder_ = "/tmp/mayfly-net.XXXXXX";
};

const Words kIdle = {"--", "sh", "-c", "echo up; sleep 1000"};
Words with(Words words, const Words& more = kIdle) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

std::string refused(const Words& words) {
  Run run(with(words, {"--", "true"}));
  CHECK(run.finish() == 125);
  const std::string log = run.log();
  CHECK(std::ranges::count(log, '\n') == 1);
  CHECK(nothing_left());
  return log;
}

}  // namespace

TEST_CASE("a tap, an address and rules, and nothing of them afterwards") {
  if (!in_own_network()) return;
  REQUIRE(nothing_left());
  Run run({"--net", "--publish", "8080:80", "--", "sh", "-c",
           "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done"});
  run.says("up");
  CHECK(tables() == "table inet mayfly0\n");
  const std::string address = output_of({"ip", "-o", "address", "show", "mayfly0"});
  CHECK_THAT(address, Contains("10.213.0.1/30") && !Contains("inet6"));
  CHECK(forwarding("up0"));
  CHECK_FALSE(cli::forwards());
  ::kill(run.pid, SIGTERM);
  CHECK(run.finish() == 4);
  CHECK(nothing_left());
}

TEST_CASE("runs at the same time have networks of their own, and the last one puts the host back") {
  if (!in_own_network()) return;
  auto first = std::make_unique<Run>(with({"--net"}));
  auto second = std::make_unique<Run>(with({"--net=tap"}));
  auto third = std::make_unique<Run>(with({"--net=tap"}));
  for (const auto& each : {first.get(), second.get(), third.get()}) each->says("up");
  CHECK(cli::tap_slots().size() == 3);
  CHECK(output_of({"ip", "-4", "-o", "address"}).find("10.213.0.9/30") != std::string::npos);
  ::kill(first->pid, SIGTERM);
  CHECK(first->finish() == 143);
  CHECK(cli::tap_slots().size() == 2);
  CHECK(forwarding("up0"));
  ::kill(second->pid, SIGKILL);
  CHECK(eventually([] { return cli::tap_slots().size() == 1; }));
  CHECK(forwarding("up0"));
  ::kill(third->pid, SIGTERM);
  third->finish();
  CHECK(eventually(nothing_left));
}

TEST_CASE("whatever is killed, the network goes") {
  if (!in_own_network()) return;
  const std::string whom = GENERATE("mayfly", "keeper", "vmm");
  CAPTURE(whom);
  Run run(with({"--net"}));
  run.says("up");
  const pid_t keeper = child(run.pid, "mayfly-keeper");
  const pid_t vmm = child(run.pid, "fake_vmm");
  REQUIRE(keeper > 0);
  REQUIRE(vmm > 0);
  ::kill(whom == "mayfly" ? run.pid : whom == "keeper" ? keeper : vmm, SIGKILL);
  // Without its keeper a run goes on, and clears away by itself.
  if (whom == "keeper") ::kill(run.pid, SIGTERM);
  run.finish();
  CHECK(eventually(nothing_left));
  CHECK(eventually([&] { return ::kill(vmm, 0) != 0; }));
}

TEST_CASE("what nobody was left to take away the next run does") {
  if (!in_own_network()) return;
  {
    Run run(with({"--net"}));
    Run other(with({"--net"}));
    run.says("up");
    other.says("up");
    for (Run* each : {&run, &other}) {
      const pid_t keeper = child(each->pid, "mayfly-keeper");
      REQUIRE(keeper > 0);
      ::kill(keeper, SIGKILL);
      ::kill(each->pid, SIGKILL);
      each->finish();
    }
  }
  CHECK(cli::tap_slots().size() == 2);
  CHECK(forwarding("up0"));
  Run next(with({"--net"}));
  next.says("up");
  CHECK(cli::tap_slots() == std::vector<unsigned>{0});
  CHECK(tables() == "table inet mayfly0\n");
  ::kill(next.pid, SIGTERM);
  next.finish();
  CHECK(nothing_left());
}

TEST_CASE("what others have is left alone") {
  if (!in_own_network()) return;
  // A tap of ours by name that somebody uses, and a route where the first range is.
  REQUIRE(cli::make_tap("mayfly0", {.address = {0xc633'6401}, .prefix = 30}, 1500));
  const base::UniqueFd user(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  std::string("mayfly0").copy(std::begin(request.ifr_name), IFNAMSIZ - 1);
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  REQUIRE(::ioctl(user.get(), TUNSETIFF, &request) == 0);
  output_of(
      {"nft", "table inet other { chain c { type filter hook forward priority 0; policy accept;\n}\n}"});
  output_of({"ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.1"});
  output_of({"sysctl", "-q", "-w", "net.ipv4.ip_forward=1"});
  Run run(with({"--net"}));
  run.says("up");
  CHECK_THAT(output_of({"ip", "-4", "-o", "address"}), Contains("172.30.0."));
  ::kill(run.pid, SIGTERM);
  run.finish();
  CHECK(tables() == "table inet other\n");
  CHECK(cli::forwards());
  CHECK(forwarding("up0"));
  output_of({"ip", "route", "del", "10.0.0.0/8"});
  output_of({"nft", "delete table inet other"});
  output_of({"sysctl", "-q", "-w", "net.ipv4.ip_forward=0"});
  REQUIRE(cli::remove_tap("mayfly0"));
  CHECK(nothing_left());
}

TEST_CASE("what cannot be is said in one line, and leaves nothing") {
  if (!in_own_network()) return;
  {
    Run run(with({"-p", "18080:80"}));
    run.says("up");
    Run again(with({"-p", "18080:80"}, {"--", "true"}));
    CHECK(again.finish() == 125);
    CHECK_THAT(again.log(), Contains("port 18080 of this host is in use"));
    ::kill(run.pid, SIGTERM);
    run.finish();
  }
  CHECK_THAT(refused({"-p", "203.0.113.1:80:80"}), Contains("no address of this host"));
  output_of({"ip", "route", "del", "default"});
  CHECK_THAT(refused({"--net"}), Contains("no default route"));
  CHECK_THAT(refused({"--net=passt"}),
             Contains(cli::has_tool("passt") ? "no default route" : "apt-get install passt"));
  output_of({"ip", "route", "add", "default", "via", "192.0.2.1"});
}

TEST_CASE("passt serves one run, and goes with it") {
  if (!in_own_network()) return;
  if (!cli::has_tool("passt")) {
    std::cout << "skipped: needs passt\n";
    return;
  }
  const std::string whom = GENERATE("nobody", "mayfly", "keeper and mayfly");
  CAPTURE(whom);
  Run run(with({"--net=passt", "-p", "18081:80"}));
  run.says("up");
  pid_t passt = 0;
  REQUIRE(eventually([&] { return (passt = child(run.pid, "passt")) > 0; }));
  const pid_t keeper = child(run.pid, "mayfly-keeper");
  if (whom == "keeper and mayfly") ::kill(keeper, SIGKILL);
  ::kill(run.pid, whom == "nobody" ? SIGTERM : SIGKILL);
  run.finish();
  CHECK(eventually([&] { return ::kill(passt, 0) != 0; }));
  CHECK(nothing_left());
}

TEST_CASE("a passt that is killed while the command runs is told of") {
  if (!in_own_network() || !cli::has_tool("passt")) return;
  Run run(with({"--net=passt"}));
  run.says("up");
  pid_t passt = 0;
  REQUIRE(eventually([&] { return (passt = child(run.pid, "passt")) > 0; }));
  ::kill(passt, SIGKILL);
  run.says("mayfly: the guest has no network any more: passt ended (killed by signal 9)");
  ::kill(run.pid, SIGTERM);
  CHECK(run.finish() == 143);
}
