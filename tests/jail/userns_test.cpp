// Jails made without root. The tests themselves are root, and run the jailer as a user.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <set>

#include "base/file.h"
#include "jailer/cgroup.h"
#include "jailer/landlock.h"
#include "tests/jail/jail_fixture.h"
#include "tests/support/eventually.h"
#include "tests/support/require_kvm.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

// Whether a user may make a user namespace here.
bool have_user_namespaces() {
  if (!have_root()) return false;
  Program attempt({"/usr/bin/unshare", "-U", "/bin/true"}, {.user = kUid});
  if (attempt.finish() == 0) return true;
  std::cerr << "SKIPPED: this host allows no user namespaces to users: " << attempt.errors() << '\n';
  return false;
}

// Jails in a folder of the user's.
struct UserJails : Jails {
  UserJails() {
    REQUIRE(::mkdir(base().c_str(), 0755) == 0);
    REQUIRE(::chown(base().c_str(), kUid, kUid) == 0);
  }
  // /dev/kvm as it is for a user in its group; in a mount namespace of the test's.
  [[nodiscard]] std::string open_kvm() const { return kvm_with(666); }
  // As it is for other users.
  [[nodiscard]] std::string closed_kvm() const { return kvm_with(600); }

 private:
  [[nodiscard]] std::string kvm_with(int mode) const {
    return fmt::format(
        "if ! [ -e {0} ]; then mknod {0} c 10 232; fi && chmod {1} {0} && mount --bind {0} /dev/kvm",
        folder().path("kvm"), mode);
  }
};

std::string link_of(pid_t pid, const char* what) {
  return std::filesystem::read_symlink(fmt::format("/proc/{}/{}", pid, what)).string();
}

}  // namespace

TEST_CASE("userns: a jail has these nodes, and its user can change none of the jailer's") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  Program jailer(jails.command("nodes", {"--userns", "--new-pid-ns"}, {"list"}),
                 {.user = kUid, .prepare = jails.open_kvm()});
  CHECK(jailer.finish() == 0);
  const std::string own = fmt::format("{0} {0}", kUid);
  const std::map<std::string, std::string> expected = {
      {"node /", "d " + own + " 700 0 0 writable"},
      {"node /" + jails.name(), "f " + own + " 111 0 0 -"},
      {"node /" + jails.name() + ".pid", "f " + own + " 644 0 0 -"},
      {"node /dev", "d " + own + " 755 0 0 -"},
      {"node /dev/kvm", "c 65534 65534 666 10 232 writable"},  // the host's own node; root is nobody in here
      {"node /dev/net", "d " + own + " 755 0 0 -"},
      {"node /run", "d " + own + " 700 0 0 writable"},
  };
  CHECK(jailer.values() == expected);
}

TEST_CASE("userns: the process has namespaces of its own and no capability in them") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  Program jail(
      jails.command("process", {"--userns", "--uid", "7", "--gid", "8"}, {"self", "arguments", "wait"}),
      {.user = kUid, .prepare = jails.open_kvm()});
  jail.wait_for("ready");
  const pid_t pid = jail.pid();
  CHECK(status_of(pid, "Uid") == fmt::format("{0}\t{0}\t{0}\t{0}", kUid));  // outside; 7 inside
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    CHECK(status_of(pid, set) == "0000000000000000");
  }
  CHECK(status_of(pid, "NoNewPrivs") == "1");
  CHECK(jail.value("securebits") == "ef");
  CHECK(jail.value("dumpable") == "0");
  CHECK(jail.value("variables") == "0");
  for (const char* name : {"ns/user", "ns/mnt", "ns/ipc"})
    CHECK(link_of(pid, name) != link_of(::getpid(), name));
  CHECK(std::filesystem::read_symlink(fmt::format("/proc/{}/fd/0", pid)).string().starts_with("pipe:"));
  // One mount of the jail's folder and what is mounted in it; nothing of the host's is left.
  const auto mounts = base::read_file(fmt::format("/proc/{}/mountinfo", pid));
  REQUIRE(mounts.has_value());
  CHECK(std::ranges::count(*mounts, '\n') == 4);  // root, the executable, dev, dev/kvm
  const auto map = base::read_file(fmt::format("/proc/{}/uid_map", pid));
  REQUIRE(map.has_value());
  CHECK(map->find("7") < map->find(std::to_string(kUid)));
  CHECK(jail.finish() == 0);
}

TEST_CASE("userns: a VMM ends with whoever started its jailer and asked for that") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  check_tie(jails.command("tied", {"--userns"}, {"wait", "pause"}),
            {.user = kUid, .prepare = jails.open_kvm()});
}

TEST_CASE("userns: each try to leave a jail, or to change it, fails") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  const bool landlock = GENERATE(true, false);
  if (landlock && jailer::landlock_abi() < 2) return;
  std::vector<std::string> options = {"--userns"};
  if (!landlock) options.emplace_back("--no-landlock");
  Program jail(jails.command("attack", options, {"attack"}), {.user = kUid, .prepare = jails.open_kvm()});
  CHECK(jail.finish() == 0);
  std::set<std::string> allowed = {"make a file"};
  if (!landlock) allowed.insert({"make a folder", "make a link"});  // its own, in its own folder
  for (const auto& [name, value] : jail.values()) {
    INFO(name);
    CHECK((value == "ok") == allowed.contains(name));
  }
  CHECK(jail.value("user namespace") == "ENOSPC");
  CHECK(jail.values().size() == 29);
}

TEST_CASE("userns: greed ends at a jail's limits") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  SECTION("processes") {
    const auto pids = jailer::find_cgroup_mount(1, "pids");
    if (!pids) {
      WARN("SKIPPED: no cgroup of version 1 for pids");
      return;
    }
    // What an administrator gives to a user.
    const std::string parent = *pids + "/" + jails.name();
    REQUIRE(::mkdir(parent.c_str(), 0755) == 0);
    for (const char* file : {"", "/cgroup.procs", "/tasks"})
      REQUIRE(::chown((parent + file).c_str(), kUid, kUid) == 0);
    Program jail(jails.command("bomb", {"--userns", "--cgroup", "pids.max=8"}, {"bomb"}),
                 {.user = kUid, .prepare = jails.open_kvm()});
    CHECK(jail.finish() == 0);
    CHECK(jail.errors().empty());
    CHECK(jail.value("processes") == "7");  // and itself
  }
  SECTION("disk") {
    Program jail(jails.command("fill", {"--userns", "--resource-limit", "fsize=5000000"}, {"fill"}),
                 {.user = kUid, .prepare = jails.open_kvm()});
    CHECK(jail.finish() == 128 + SIGXFSZ);
    CHECK(std::filesystem::file_size(jails.root("fill") + "/run/disk") == 5000000);
  }
}

TEST_CASE("userns: a virtual machine runs, by a device of the user's or by a descriptor") {
  if (!have_user_namespaces() || !have_kvm()) return;
  const UserJails jails;
  Program by_node(jails.command("node", {"--userns"}, {"kvm"}), {.user = kUid, .prepare = jails.open_kvm()});
  CHECK(by_node.finish() == 0);
  CHECK(by_node.value("the guest") == "spoke");
  const auto kvm = base::open_file("/dev/kvm", O_RDWR);
  REQUIRE(kvm.has_value());
  Program by_fd(jails.command("fd", {"--userns", "--new-pid-ns", "--pass-fd", "20"}, {"kvm-fd", "20"}),
                {.user = kUid, .pass_fd = kvm->get(), .prepare = jails.closed_kvm()});
  CHECK(by_fd.finish() == 0);
  CHECK(by_fd.value("the guest") == "spoke");
  CHECK_FALSE(std::filesystem::exists(jails.root("fd") + "/dev/kvm"));
}

TEST_CASE("userns: what goes wrong is said in one line, and nothing is left") {
  if (!have_user_namespaces()) return;
  struct Failure {
    std::string what, error;
    std::vector<std::string> options = {};
    std::string prepare = {};
    std::optional<unsigned> user = kUid;
  };
  const UserJails jails;
  const std::string before = jails.all_that_is_left();
  std::vector<Failure> failures = {
      {"as root", "is for users", {}, {}, std::nullopt},
      {"a device of others", "you may not use /dev/kvm: join its group", {}, jails.closed_kvm()},
      {"a network namespace of root's",
       "join the network namespace",
       {"--netns", "/proc/self/ns/net"},
       jails.open_kvm()},
  };
  if (jailer::find_cgroup_mount(2, {})) {
    failures.push_back({"cgroups of root's",
                        "Permission denied",
                        {"--cgroup-version", "2", "--cgroup", "cgroup.max.depth=3"},
                        jails.open_kvm()});
  }
  for (const Failure& failure : failures) {
    INFO(failure.what);
    std::vector<std::string> options = {"--userns"};
    options.insert(options.end(), failure.options.begin(), failure.options.end());
    Program jail(jails.command("x", options, {"wait"}), {.user = failure.user, .prepare = failure.prepare});
    CHECK(jail.finish() == 1);
    INFO(jail.errors());
    CHECK(jail.errors().find(failure.error) != std::string::npos);
    CHECK(std::ranges::count(jail.errors(), '\n') == 1);
    CHECK(jails.all_that_is_left() == before);
  }
}

TEST_CASE("userns: a host that forbids it is told by the setting that does") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  const std::string before = jails.all_that_is_left();
  // In a chroot, the kernel makes no user namespace.
  const std::string other_root = jails.folder().path("root");
  std::filesystem::create_directory(other_root);
  const std::string prepare = jails.open_kvm() + " && mount --rbind / " + other_root;
  std::vector<std::string> command = {"/usr/sbin/chroot", fmt::format("--userspec={0}:{0}", kUid),
                                      other_root};
  for (const std::string& word : jails.command("x", {"--userns"}, {"wait"})) command.push_back(word);
  Program in_chroot(command, {.prepare = prepare});
  CHECK(in_chroot.finish() == 1);
  CHECK(in_chroot.errors().find("making a user namespace was refused; in a chroot") != std::string::npos);

  const std::string zero = jails.folder().file("zero", "0\n");
  const std::string setting = "/proc/sys/user/max_user_namespaces";
  Program by_setting(command, {.prepare = prepare + " && mount --bind " + zero + " " + other_root + setting});
  CHECK(by_setting.finish() == 1);
  CHECK(by_setting.errors() ==
        "mayfly-jailer: --userns: this host allows no user namespaces (sysctl user.max_user_namespaces is "
        "0)\n");
  CHECK(jails.all_that_is_left() == before);
}

TEST_CASE("userns: --cleanup takes away what is left, as the user") {
  if (!have_user_namespaces()) return;
  const UserJails jails;
  const std::string before = jails.all_that_is_left();
  Program jail(jails.command("old", {"--userns"}, {"work", "wait"}),
               {.user = kUid, .prepare = jails.open_kvm()});
  jail.wait_for("ready");
  const std::vector<std::string> cleanup = {jailer_program(), "--cleanup", "old", "--chroot-base-dir",
                                            jails.base()};
  CHECK(jail.finish() == 0);
  CHECK(jails.all_that_is_left() != before);
  Program late(cleanup, {.user = kUid});
  CHECK(late.finish() == 0);
  CHECK(late.errors().empty());
  CHECK(jails.all_that_is_left() == before + jails.base() + "/" + jails.name() + "\n");
}
