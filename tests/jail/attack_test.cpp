// What a VMM that a guest has taken over can still do: nothing of this. Without seccomp, so that each defence
// is tried alone.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <filesystem>

#include "base/file.h"
#include "jailer/cgroup.h"
#include "jailer/enter.h"
#include "jailer/landlock.h"
#include "tests/jail/jail_fixture.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

const std::map<std::string, std::string> kDenied = {
    {"read the host's files", "ENOENT"},
    {"go up", "ENOENT"},
    {"make a folder", "EACCES"},
    {"make a device", "EACCES"},
    {"make a link", "EACCES"},
    {"read the executable", "EACCES"},
    {"write the executable", "EACCES"},
    {"open the executable to all", "EPERM"},
    {"remove the executable", "EPERM"},
    {"replace the executable", "EACCES"},
    {"link the executable", "EPERM"},
    {"move the devices", "EACCES"},
    {"add a device", "EACCES"},
    {"make a file", "ok"},  // a snapshot
    {"map a file for execution", "EPERM"},
    {"execute", "EACCES"},
    {"execute itself", "EACCES"},
    {"chroot", "EPERM"},
    {"mount", "EPERM"},
    {"pivot_root", "EPERM"},
    {"user namespace", "EPERM"},
    {"mount namespace", "EPERM"},
    {"open_tree", "EPERM"},
    {"become root", "EPERM"},
    {"regain groups", "EPERM"},
    {"raise limits", "EPERM"},
    {"trace the parent", "EPERM"},
    {"kill process 1", "EPERM"},
    {"host name", "EPERM"},
};

}  // namespace

TEST_CASE("each try to leave a jail, or to change it, fails") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("attack", {}, {"attack"}));
  CHECK(jail.finish() == 0);
  if (jailer::landlock_abi() < 2) {
    // Without Landlock these are for users and modes alone to decide, and do no harm in a folder of its own.
    WARN("SKIPPED in part: no Landlock on this host");
    return;
  }
  CHECK(jail.values() == kDenied);
}

TEST_CASE("users, modes and mounts hold without Landlock, too") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("modes", {"--no-landlock"}, {"attack"}));
  CHECK(jail.finish() == 0);
  std::map<std::string, std::string> expected = kDenied;
  expected["make a device"] = "EPERM";
  expected["make a folder"] = "ok";  // its own, on the jail's disk
  expected["make a link"] = "ok";    // it leads no further than the jail
  expected["replace the executable"] = "EPERM";
  expected["move the devices"] = "EPERM";
  CHECK(jail.values() == expected);
}

TEST_CASE("greed ends at a jail's limits") {
  if (!have_root()) return;
  const Jails jails;
  SECTION("processes") {
    if (!jailer::find_cgroup_mount(1, "pids")) {
      WARN("SKIPPED: no cgroup of version 1 for pids");
      return;
    }
    Program jail(jails.command("bomb", {"--cgroup", "pids.max=8"}, {"bomb"}));
    CHECK(jail.finish() == 0);
    CHECK(jail.value("processes") == "7");  // and itself
  }
  SECTION("memory") {
    if (!jailer::find_cgroup_mount(1, "memory")) {
      WARN("SKIPPED: no cgroup of version 1 for memory");
      return;
    }
    Program jail(jails.command("hog", {"--cgroup", "memory.limit_in_bytes=16M"}, {"hog"}));
    CHECK(jail.finish() == 128 + SIGKILL);
  }
  SECTION("disk") {
    Program jail(jails.command("fill", {"--resource-limit", "fsize=5000000"}, {"fill"}));
    CHECK(jail.finish() == 128 + SIGXFSZ);
    CHECK(std::filesystem::file_size(jails.root("fill") + "/run/disk") == 5000000);
  }
}

TEST_CASE("even with all capabilities, nothing leads out of a jail's mount") {
  if (!have_root()) return;
  const TemporaryFolder folder;
  const auto root = base::open_file(folder.path("."), O_RDONLY | O_DIRECTORY);
  REQUIRE(root.has_value());
  const pid_t child = ::fork();
  if (child == 0) {
    if (!jailer::enter_root(root->get())) ::_exit(1);
    // The known way out of a chroot: another one below the working directory, which then has no root above
    // it.
    if (::mkdir("/inner", 0700) < 0 || ::chroot("/inner") < 0) ::_exit(2);
    for (int i = 0; i < 64; ++i) {
      if (::chdir("..") < 0) ::_exit(3);
    }
    if (::chroot(".") < 0) ::_exit(4);
    if (::access("/inner", F_OK) < 0) ::_exit(5);        // this is the jail's folder
    if (::access("/etc/passwd", F_OK) == 0) ::_exit(6);  // and not the host's
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a mount of the host's does not appear in a jail that runs, nor the other way") {
  if (!have_root()) return;
  const Jails jails;
  std::string mounts = *base::read_file("/proc/self/mountinfo");
  Program jail(jails.command("mounts", {}, {"wait", "list"}));
  jail.wait_for("ready");
  CHECK(*base::read_file("/proc/self/mountinfo") == mounts);
  const std::string command = "mount -t tmpfs x " + jails.root("mounts") + "/run && touch " +
                              jails.root("mounts") + "/run/seen; s=$?; [ $s = 0 ] && exit 0";
  REQUIRE(std::system(command.c_str()) == 0);
  CHECK(jail.finish() == 0);
  CHECK(jail.value("node /run") == fmt::format("d {} {} 700 0 0 writable", kUid, kGid));
  CHECK(jail.value("node /run/seen").empty());
  REQUIRE(std::system(("umount " + jails.root("mounts") + "/run").c_str()) == 0);
}

TEST_CASE("the host's abstract sockets, TCP ports, shared memory and processes are out of a jail's reach") {
  if (!have_root()) return;
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = fmt::format("mayfly-test-{}", ::getpid());
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  REQUIRE(::bind(listener, reinterpret_cast<const sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(listener, 1) == 0);

  const int tcp = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in port{};
  port.sin_family = AF_INET;
  port.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  socklen_t port_size = sizeof port;
  REQUIRE(::bind(tcp, reinterpret_cast<const sockaddr*>(&port), sizeof port) == 0);
  REQUIRE(::listen(tcp, 1) == 0);
  REQUIRE(::getsockname(tcp, reinterpret_cast<sockaddr*>(&port), &port_size) == 0);

  const int segment = ::shmget(static_cast<key_t>(::getpid()), 4096, IPC_CREAT | 0666);
  REQUIRE(segment >= 0);
  // One of the same user's, in another jail.
  const Jails jails;
  Program other(jails.command("other", {}, {"wait"}));
  other.wait_for("ready");
  Program jail(jails.command("reach", {},
                             {"abstract", name, "tcp", std::to_string(::ntohs(port.sin_port)), "shm",
                              std::to_string(::getpid()), "signal", std::to_string(other.pid())}));
  CHECK(jail.finish() == 0);
  ::shmctl(segment, IPC_RMID, nullptr);
  ::close(listener);
  ::close(tcp);
  CHECK(jail.value("shared memory") == "ENOENT");
  const int abi = jailer::landlock_abi();
  if (abi < 6) WARN("SKIPPED in part: Landlock's version is " << abi << ", not 6");
  if (abi >= 4) CHECK(jail.value("tcp") == "EACCES");
  if (abi >= 6) CHECK(jail.value("abstract socket") == "EPERM");
  if (abi >= 6) CHECK(jail.value("signal") == "EPERM");
}
