// Jails made as root: what is in them, and what the process in them is.
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <list>
#include <set>

#include "base/file.h"
#include "tests/jail/jail_fixture.h"
#include "tests/support/pipe.h"
#include "tests/support/require_kvm.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

std::string namespace_of(const std::string& process, const char* name) {
  return std::filesystem::read_symlink("/proc/" + process + "/ns/" + name).string();
}

std::set<std::string> open_files(pid_t pid) {
  std::set<std::string> fds;
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
    fds.insert(entry.path().filename().string());
  }
  return fds;
}

// "c 64101 64102 600 10 232 -" of a host's device, for the jail's user.
std::string device(const char* path) {
  struct stat what {};
  REQUIRE(::stat(path, &what) == 0);
  return fmt::format("c {} {} 600 {} {} writable", kUid, kGid, major(what.st_rdev), minor(what.st_rdev));
}

pid_t pid_in(const std::string& file) {
  const auto text = base::read_file(file);
  REQUIRE(text.has_value());
  return std::stoi(*text);
}

}  // namespace

TEST_CASE("a jail has these nodes, owners and modes, and no other") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("nodes", {}, {"list"}));
  CHECK(jail.finish() == 0);
  std::map<std::string, std::string> expected = {
      {"node /", fmt::format("d 0 {} 1770 0 0 writable", kGid)},
      {"node /" + jails.name(), "f 0 0 111 0 0 -"},
      {"node /dev", "d 0 0 755 0 0 -"},
      {"node /dev/kvm", device("/dev/kvm")},
      {"node /dev/net", "d 0 0 755 0 0 -"},
      {"node /dev/net/tun", device("/dev/net/tun")},
      {"node /run", fmt::format("d {} {} 700 0 0 writable", kUid, kGid)},
  };
  if (::access("/dev/userfaultfd", F_OK) == 0) expected["node /dev/userfaultfd"] = device("/dev/userfaultfd");
  CHECK(jail.values() == expected);
  CHECK(jail.errors().empty());
}

TEST_CASE("the process in a jail has a user and nothing else") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("process", {}, {"arguments", "self", "wait"}));
  jail.wait_for("ready");
  const pid_t pid = jail.pid();  // the jailer has become it
  CHECK(status_of(pid, "Uid") == fmt::format("{0}\t{0}\t{0}\t{0}", kUid));
  CHECK(status_of(pid, "Gid") == fmt::format("{0}\t{0}\t{0}\t{0}", kGid));
  CHECK(status_of(pid, "Groups").empty());
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    CHECK(status_of(pid, set) == "0000000000000000");
  }
  CHECK(status_of(pid, "NoNewPrivs") == "1");
  CHECK(jail.value("securebits") == "ef");  // all, locked, but KEEP_CAPS, which is locked off
  CHECK(jail.value("dumpable") == "0");
  CHECK(jail.value("variables") == "0");
  CHECK(open_files(pid) == std::set<std::string>{"0", "1", "2"});
  CHECK(namespace_of(std::to_string(pid), "ipc") != namespace_of("self", "ipc"));
  const auto limits = base::read_file(fmt::format("/proc/{}/limits", pid));
  REQUIRE(limits.has_value());
  CHECK(limits->find("Max core file size        0                    0 ") != std::string::npos);
  CHECK(limits->find("Max open files            2048                 2048 ") != std::string::npos);
  // Nobody of its user can look into it: its entry in /proc is root's.
  struct stat entry {};
  REQUIRE(::stat(fmt::format("/proc/{}/mem", pid).c_str(), &entry) == 0);
  CHECK(entry.st_uid == 0);
  CHECK(jail.finish() == 0);
}

TEST_CASE("the VMM gets the jailer's words, then its own, and its status is the jailer's") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("words", {}, {"arguments", "--id", "--", "x y", "exit", "42"}));
  CHECK(jail.finish() == 42);
  CHECK(jail.value("argument 0") == jails.name());
  CHECK(jail.value("argument 1") == "--id");
  CHECK(jail.value("argument 2") == "words");
  CHECK(jail.value("argument 3") == "--start-time-us");
  CHECK(std::stoull(jail.value("argument 4")) > 0);
  CHECK(jail.value("argument 5") == "--start-time-cpu-us");
  CHECK(jail.value("argument 7") == "--parent-cpu-time-us");
  CHECK(jail.value("argument 8") == "0");
  CHECK(jail.value("argument 9") == "arguments");
  CHECK(jail.value("argument 10") == "--id");
  CHECK(jail.value("argument 11") == "--");
  CHECK(jail.value("argument 12") == "x y");
}

TEST_CASE("resource limits and the out-of-memory score are set") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command(
      "limits",
      {"--resource-limit", "fsize=1000000", "--resource-limit", "no-file=3", "--oom-score-adj", "700"},
      {"wait"}));
  jail.wait_for("ready");
  const auto limits = base::read_file(fmt::format("/proc/{}/limits", jail.pid()));
  REQUIRE(limits.has_value());
  CHECK(limits->find("Max file size             1000000              1000000 ") != std::string::npos);
  CHECK(limits->find("Max open files            3                    3 ") != std::string::npos);
  CHECK(*base::read_file(fmt::format("/proc/{}/oom_score_adj", jail.pid())) == "700\n");
}

TEST_CASE("a new PID namespace has the VMM as its only process, and its pid is in a file") {
  if (!have_root()) return;
  const Jails jails;
  Program jailer(jails.command("pid", {"--new-pid-ns"}, {"arguments", "self", "wait"}));
  jailer.wait_for("ready");
  const pid_t pid = pid_in(jails.root("pid") + "/" + jails.name() + ".pid");
  CHECK(pid != jailer.pid());
  CHECK(jailer.value("pid") == "1");
  CHECK(status_of(pid, "NSpid") == fmt::format("{}\t1", pid));
  CHECK(namespace_of(std::to_string(pid), "pid") != namespace_of("self", "pid"));
  struct stat file {};
  REQUIRE(::stat((jails.root("pid") + "/" + jails.name() + ".pid").c_str(), &file) == 0);
  CHECK(file.st_uid == 0);
  CHECK((file.st_mode & 07777U) == 0644);
  CHECK(std::stoull(jailer.value("argument 8")) > 0);  // the jailer's own CPU time
  CHECK(jailer.value("argument 6") == "0");
  CHECK(jailer.finish() == 0);  // its stdin was the VMM's, too: both end
}

TEST_CASE("a daemon has a session of its own and /dev/null") {
  if (!have_root()) return;
  const bool leader = GENERATE(false, true);
  const Jails jails;
  Program jailer(jails.command("daemon", {"--daemonize"}, {"self", "pause"}), {.own_group = leader});
  pid_t pid = jailer.pid();
  if (leader) {
    // Only a child of a group's leader can start a session; the jailer says which it is, and ends.
    CHECK(jailer.finish() == 0);
    pid = pid_in(jails.root("daemon") + "/" + jails.name() + ".pid");
  } else {
    while (!std::filesystem::equivalent(fmt::format("/proc/{}/exe", pid),
                                        jails.root("daemon") + "/" + jails.name())) {
      ::usleep(1000);
    }
  }
  CHECK(::getsid(pid) == pid);
  CHECK(jailer.output().empty());
  for (const char* fd : {"0", "1", "2"}) {
    CHECK(std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", pid, fd)) == "/dev/null");
  }
  CHECK(open_files(pid).size() == 3);
  ::kill(pid, SIGKILL);
}

TEST_CASE("a jail joins a network namespace") {
  if (!have_root()) return;
  const Pipe hold;
  const Pipe said;
  const pid_t other = ::fork();
  REQUIRE(other >= 0);
  if (other == 0) {
    const char done = ::unshare(CLONE_NEWNET) == 0 ? 'y' : 'n';
    static_cast<void>(::write(said.write.get(), &done, 1));
    ::pause();
    ::_exit(0);
  }
  char done = 0;
  REQUIRE(::read(said.read.get(), &done, 1) == 1);
  REQUIRE(done == 'y');
  const Jails jails;
  Program jail(jails.command("net", {"--netns", fmt::format("/proc/{}/ns/net", other)}, {"wait"}));
  jail.wait_for("ready");
  CHECK(namespace_of(std::to_string(jail.pid()), "net") == namespace_of(std::to_string(other), "net"));
  CHECK(namespace_of(std::to_string(jail.pid()), "net") != namespace_of("self", "net"));
  ::kill(other, SIGKILL);
  ::waitpid(other, nullptr, 0);
}

TEST_CASE("what a VMM does with files, sockets and devices works in a jail") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("work", {}, {"work"}));
  CHECK(jail.finish() == 0);
  for (const auto& [name, value] : jail.values()) {
    INFO(name);
    CHECK(value == "ok");
  }
  CHECK(jail.values().size() == 7);
}

TEST_CASE("a virtual machine runs in a jail, by its node or by a descriptor") {
  if (!have_root() || !have_kvm()) return;
  const Jails jails;
  const bool by_fd = GENERATE(false, true);
  const auto kvm = base::open_file("/dev/kvm", O_RDWR);
  REQUIRE(kvm.has_value());
  const auto options = by_fd ? std::vector<std::string>{"--pass-fd", "20"} : std::vector<std::string>{};
  const auto words =
      by_fd ? std::vector<std::string>{"kvm-fd", "20", "wait"} : std::vector<std::string>{"kvm", "wait"};
  Program jail(jails.command("vm", options, words), {.pass_fd = kvm->get()});
  jail.wait_for("ready");
  CHECK(jail.value("the guest") == "spoke");
  CHECK(open_files(jail.pid()).contains("20") == by_fd);
  CHECK(jail.finish() == 0);
}

TEST_CASE("where nothing may be executed from the jail's disk, the VMM's executable is in memory") {
  if (!have_root()) return;
  const Jails jails;
  const std::string prepare =
      fmt::format("mkdir {0} && mount -t tmpfs -o noexec,nosuid,nodev,mode=755 x {0}", jails.base());
  Program jail(jails.command("memory", {}, {"list", "attack", "self", "wait"}), {.prepare = prepare});
  jail.wait_for("ready");
  const auto values = jail.values();
  CHECK(!values.contains("node /" + jails.name()));
  CHECK(values.contains("node /dev/kvm"));
  CHECK(jail.value("dumpable") == "0");
  for (const char* attack : {"read the executable", "write the executable", "execute itself"}) {
    CAPTURE(attack);
    CHECK(jail.value(attack) == "ENOENT");
  }
  CHECK(jail.value("map a file for execution") == "EPERM");
  const int exe = ::open(fmt::format("/proc/{}/exe", jail.pid()).c_str(), O_RDONLY | O_CLOEXEC);
  REQUIRE(exe >= 0);
  CHECK(::fcntl(exe, F_GET_SEALS) == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
  ::close(exe);
  CHECK(jail.finish() == 0);
}

TEST_CASE("a VMM ends with whoever started its jailer and asked for that") {
  if (!have_root()) return;
  const Jails jails;
  check_tie(jails.command("tied", {}, {"wait", "pause"}), {});
}

TEST_CASE("a jail's folder may hold a client's files, and what is mounted there") {
  if (!have_root()) return;
  const Jails jails;
  std::filesystem::create_directories(jails.root("files") + "/images");
  REQUIRE(base::write_file_atomically(jails.root("files") + "/kernel", "x").has_value());
  Program jail(jails.command("files", {}, {"list"}),
               {.prepare = "mount -t tmpfs -o mode=700 x " + jails.root("files") + "/images && touch " +
                           jails.root("files") + "/images/disk"});
  CHECK(jail.finish() == 0);
  CHECK(jail.value("node /kernel").starts_with("f 0 0 644"));
  CHECK(jail.value("node /images").starts_with("d 0 0 700"));
}

TEST_CASE("ten jails at once are ten jails") {
  if (!have_root()) return;
  const Jails jails;
  std::list<Program> running;
  for (int i = 0; i < 10; ++i) {
    running.emplace_back(jails.command(fmt::format("many-{}", i), {"--new-pid-ns"}, {"list", "wait"}));
  }
  for (Program& jail : running) {
    jail.wait_for("ready");
    CHECK(jail.value("node /dev/kvm") == device("/dev/kvm"));
  }
  for (Program& jail : running) CHECK(jail.finish() == 0);
}
