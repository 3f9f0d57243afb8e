// Cgroups of both versions.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <iostream>

#include "base/file.h"
#include "jailer/cgroup.h"
#include "tests/jail/jail_fixture.h"

using namespace mayfly;
using namespace mayfly::test;

namespace {

std::string content(const std::string& path) {
  const auto text = base::read_file(path);
  return text ? *text : "(" + text.error().message + ")";
}

// Where the hierarchy is; says so when there is none.
std::string mounted(int version, const std::string& controller) {
  const auto mount = jailer::find_cgroup_mount(version, controller);
  if (!mount) std::cerr << "SKIPPED: " << mount.error().message << '\n';
  return mount ? *mount : std::string();
}

// A controller that the version 2 tree has here, with a file to set: most are version 1's on some hosts.
struct Setting {
  std::string controller, file, value;
};
std::optional<Setting> setting_of_version_2(const std::string& mount) {
  const std::string controllers = " " + content(mount + "/cgroup.controllers");
  for (const Setting& setting :
       {Setting{"pids", "pids.max", "50"}, Setting{"memory", "memory.max", "104857600"},
        Setting{"hugetlb", "hugetlb.2MB.max", "0"}}) {
    if (controllers.find(setting.controller) != std::string::npos) return setting;
  }
  std::cerr << "SKIPPED: the cgroup version 2 tree has no controller here\n";
  return std::nullopt;
}

}  // namespace

TEST_CASE("mount points of cgroup hierarchies are found in a mountinfo") {
  const std::string text =
      "22 1 0:20 / /proc rw - proc proc rw\n"
      "31 25 0:27 / /cg/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
      "32 25 0:28 / /cg/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate\n"
      "not a line\n";
  CHECK(jailer::cgroup_mount_in(text, 1, "cpu") == "/cg/cpu,cpuacct");
  CHECK(jailer::cgroup_mount_in(text, 1, "cpuacct") == "/cg/cpu,cpuacct");
  CHECK(jailer::cgroup_mount_in(text, 1, "cpuset").empty());
  CHECK(jailer::cgroup_mount_in(text, 2, "").ends_with("/unified"));
  CHECK(jailer::cgroup_mount_in("", 2, "").empty());
}

TEST_CASE("version 1: each controller's cgroup has its values and the VMM") {
  if (!have_root()) return;
  const std::string pids = mounted(1, "pids");
  const std::string cpuset = mounted(1, "cpuset");
  if (pids.empty() || cpuset.empty()) return;
  const bool child = GENERATE(false, true);
  const Jails jails;
  std::vector<std::string> options = {"--cgroup-version", "1",        "--cgroup",
                                      "pids.max=50",      "--cgroup", "cpuset.cpus=0"};
  if (child) options.emplace_back("--new-pid-ns");
  Program jail(jails.command("one", options, {"wait"}));
  jail.wait_for("ready");
  const std::string below = "/" + jails.name() + "/one";
  CHECK(content(pids + below + "/pids.max") == "50\n");
  CHECK(content(cpuset + below + "/cpuset.cpus") == "0\n");
  CHECK(content(cpuset + below + "/cpuset.mems") == content(cpuset + "/cpuset.mems"));
  pid_t pid = jail.pid();
  if (child) pid = std::stoi(content(jails.root("one") + "/" + jails.name() + ".pid"));
  CHECK(content(pids + below + "/cgroup.procs") == fmt::format("{}\n", pid));
  CHECK(content(cpuset + below + "/cgroup.procs") == fmt::format("{}\n", pid));
  CHECK(jail.finish() == 0);
}

TEST_CASE("version 2: controllers are enabled all the way down, and the VMM starts in its cgroup") {
  if (!have_root()) return;
  const std::string mount = mounted(2, "");
  if (mount.empty()) return;
  const auto setting = setting_of_version_2(mount);
  if (!setting) return;
  const bool child = GENERATE(false, true);
  const Jails jails;
  const std::string parent = jails.name() + "/deep/er";
  std::vector<std::string> options = {
      "--cgroup-version", "2", "--parent-cgroup", parent, "--cgroup", setting->file + "=" + setting->value};
  if (child) options.emplace_back("--new-pid-ns");
  Program jail(jails.command("two", options, {"wait"}));
  jail.wait_for("ready");
  const std::string own = mount + "/" + parent + "/two";
  CHECK(content(own + "/" + setting->file) == setting->value + "\n");
  for (const char* const level : {"", "/deep", "/deep/er"}) {
    CHECK(content(mount + "/" + jails.name() + std::string(level) + "/cgroup.subtree_control")
              .find(setting->controller) != std::string::npos);
  }
  pid_t pid = jail.pid();
  if (child) pid = std::stoi(content(jails.root("two") + "/" + jails.name() + ".pid"));
  CHECK(content(own + "/cgroup.procs") == fmt::format("{}\n", pid));
  CHECK(content(fmt::format("/proc/{}/cgroup", pid)).find("0::/" + parent + "/two\n") != std::string::npos);
  CHECK(jail.finish() == 0);

  Program cleanup({jailer_program(), "--cleanup", "two", "--chroot-base-dir", jails.base()});
  CHECK(cleanup.finish() == 0);
  CHECK(cleanup.errors().empty());
  CHECK_FALSE(std::filesystem::exists(own));
  for (const char* const level : {"/deep/er", "/deep", ""})
    ::rmdir((mount + "/" + jails.name() + std::string(level)).c_str());
}

TEST_CASE("version 2: with a parent alone, the VMM joins it") {
  if (!have_root()) return;
  const std::string mount = mounted(2, "");
  if (mount.empty()) return;
  const Jails jails;
  const std::string parent = mount + "/" + jails.name();
  Program without(
      jails.command("none", {"--cgroup-version", "2", "--parent-cgroup", jails.name()}, {"wait"}));
  CHECK(without.finish() == 1);
  CHECK(without.errors().find(parent) != std::string::npos);
  REQUIRE(::mkdir(parent.c_str(), 0755) == 0);
  Program jail(jails.command("joins", {"--cgroup-version", "2", "--parent-cgroup", jails.name()}, {"wait"}));
  jail.wait_for("ready");
  CHECK(content(parent + "/cgroup.procs") == fmt::format("{}\n", jail.pid()));
  CHECK(jail.finish() == 0);
}

TEST_CASE("a host without cgroups: said in one line, when cgroups were asked for") {
  if (!have_root()) return;
  const Jails jails;
  const std::string hide =
      "umount -l /sys/fs/cgroup; while umount -l /sys/fs/cgroup 2>/dev/null; do :; done; true";
  Program without(jails.command("free", {}, {"exit", "3"}), {.prepare = hide});
  CHECK(without.finish() == 3);
  Program with(jails.command("limited", {"--cgroup", "pids.max=5"}, {}), {.prepare = hide});
  CHECK(with.finish() == 1);
  CHECK(with.errors() ==
        "mayfly-jailer: --cgroup: this host has no cgroups mounted, neither version 1 with pids nor version "
        "2\n");
  CHECK(jails.all_that_is_left().find("limited") == std::string::npos);
}
