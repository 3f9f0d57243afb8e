// Bad input and broken hosts: one clear line each, and nothing left behind.
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "base/file.h"
#include "jailer/cgroup.h"
#include "tests/jail/jail_fixture.h"
#include "tests/support/eventually.h"

using namespace mayfly;
using namespace mayfly::test;
using Words = std::vector<std::string>;

namespace {

struct Failure {
  const char* what;
  const char* error;   // part of the line
  Words options = {};  // BASE and FOLDER stand for paths
  const char* prepare = "";
  const char* executable = "";  // in FOLDER; empty: the probe
};

std::string with_paths(std::string text, const Jails& jails) {
  const auto replace = [&text](const std::string& word, const std::string& by) {
    for (std::size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + by.size())) {
      text.replace(at, word.size(), by);
    }
  };
  replace("BASE", jails.base());
  replace("NAME", jails.name());
  replace("FOLDER", jails.folder().path("."));
  return text;
}

// An executable that the jailer's checks let pass and the kernel does not: it has no segments.
std::string broken_executable() {
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

void add_executables(const Jails& jails) {
  const auto add = [&](const char* name, std::string_view content, unsigned mode) {
    const std::string path = jails.folder().file(name, content);
    REQUIRE(::chmod(path.c_str(), mode) == 0);
  };
  add("broken", broken_executable(), 0755);
  add("script",
      "#!/bin/sh\nexit 0\n# long enough to have an ELF header, if it were one of those files, you see\n",
      0755);
  add("short", "x", 0755);
  add("not-executable", broken_executable(), 0644);
  add("writable", broken_executable(), 0775);
  std::filesystem::create_symlink(jails.probe(), jails.folder().path("symlink"));
  std::filesystem::copy_file("/proc/self/exe", jails.folder().path("dynamic"));
  REQUIRE(::mkfifo(jails.folder().path("fifo").c_str(), 0755) == 0);
  std::filesystem::create_directory(jails.folder().path("folder"));
}

const Failure kFailures[] = {
    {"no executable", "No such file", {}, "", "missing"},
    {"an executable that is a link", "symbolic link", {}, "", "symlink"},
    {"an executable that is a FIFO", "not a regular file", {}, "", "fifo"},
    {"an executable that is a folder", "not a regular file", {}, "", "folder"},
    {"an executable without the right", "not executable", {}, "", "not-executable"},
    {"an executable that others may change", "may change it", {}, "", "writable"},
    {"a script", "not a 64-bit ELF executable", {}, "", "script"},
    {"an executable of one byte", "ends at offset", {}, "", "short"},
    {"an executable with shared libraries", "shared libraries", {}, "", "dynamic"},
    {"a base folder in a file", "Not a directory", {"--chroot-base-dir", "FOLDER/script/jails"}},
    {"a base folder that others may write to",
     "can be written to by others",
     {},
     "mkdir BASE; chmod 777 BASE"},
    {"a read-only base folder", "Read-only", {}, "mkdir BASE; mount -t tmpfs -o ro x BASE"},
    {"a full base folder", "No space left", {}, "mkdir BASE; mount -t tmpfs -o size=64k,mode=755 x BASE"},
    {"a folder that is a link", "symbolic link", {}, "mkdir BASE; ln -s /tmp BASE/NAME"},
    {"a jail that is a link", "symbolic link", {}, "mkdir -p BASE/NAME; ln -s /tmp BASE/NAME/x"},
    {"a root that is a link", "symbolic link", {}, "mkdir -p BASE/NAME/x; ln -s /tmp BASE/NAME/x/root"},
    {"an executable in the jail already",
     "exists already",
     {},
     "mkdir -p BASE/NAME/x/root; echo >BASE/NAME/x/root/NAME"},
    {"a link in the executable's place",
     "exists already",
     {},
     "mkdir -p BASE/NAME/x/root; ln -s FOLDER/victim BASE/NAME/x/root/NAME"},
    {"a hard link in the executable's place",
     "exists already",
     {},
     "mkdir -p BASE/NAME/x/root; ln FOLDER/script BASE/NAME/x/root/NAME"},
    {"devices in the jail already", "exists already", {}, "mkdir -p BASE/NAME/x/root/dev"},
    {"a pid file in the jail already",
     "exists already",
     {"--new-pid-ns"},
     "mkdir -p BASE/NAME/x/root/NAME.pid"},
    {"no device", "/dev/kvm is not a character device", {}, "mount --bind FOLDER/script /dev/kvm"},
    {"no network namespace", "No such file", {"--netns", "FOLDER/missing"}},
    {"a file for a network namespace", "not a namespace", {"--netns", "FOLDER/script"}},
    {"another namespace", "not a network namespace", {"--netns", "/proc/self/ns/uts"}},
    {"a controller that nobody knows",
     "no cgroup version 1 hierarchy with the controller \"nonsense\"",
     {"--cgroup-version", "1", "--cgroup", "nonsense.max=1"}},
    {"a second one that nobody knows",
     "controller \"nonsense\"",
     {"--cgroup-version", "1", "--cgroup", "pids.max=1", "--cgroup", "nonsense.max=1"}},
    {"a controller that version 2 does not know",
     "has no controller \"nonsense\"",
     {"--cgroup-version", "2", "--cgroup", "nonsense.max=1"}},
    {"a file that a controller has not",
     "has no file pids.nonsense",
     {"--cgroup-version", "1", "--cgroup", "pids.nonsense=1"}},
    {"a value that a controller refuses",
     "write \"many\" into",
     {"--cgroup-version", "1", "--cgroup", "pids.max=many"}},
    {"read-only cgroups",
     "Read-only",
     {"--cgroup-version", "1", "--cgroup", "pids.max=5"},
     "mount -o remount,bind,ro /sys/fs/cgroup/pids"},
    {"more open files than the kernel allows",
     "set the resource limit no-file",
     {"--resource-limit", "no-file=99999999999"}},
    {"a descriptor that is not open", "--pass-fd 77", {"--pass-fd", "77"}},
    {"a file that cannot be executed", "Exec format error", {}, "", "broken"},
    {"the same in a child", "Exec format error", {"--new-pid-ns"}, "", "broken"},
    {"the same as a daemon", "Exec format error", {"--daemonize"}, "", "broken"},
    {"the same in cgroups of version 1",
     "Exec format error",
     {"--cgroup-version", "1", "--cgroup", "pids.max=5", "--cgroup", "memory.limit_in_bytes=64M"},
     "",
     "broken"},
    {"the same in a cgroup of version 2",
     "Exec format error",
     {"--cgroup-version", "2", "--cgroup", "cgroup.max.depth=3"},
     "",
     "broken"},
    {"the same in a child in a cgroup of version 2",
     "Exec format error",
     {"--new-pid-ns", "--cgroup-version", "2", "--cgroup", "cgroup.max.depth=3"},
     "",
     "broken"},
    {"the same in a child in cgroups of version 1",
     "Exec format error",
     {"--new-pid-ns", "--cgroup-version", "1", "--cgroup", "pids.max=5"},
     "",
     "broken"},
};

bool can_test(const Failure& failure) {
  const auto it = std::ranges::find(failure.options, "--cgroup-version");
  if (it == failure.options.end()) return true;
  const bool one = *std::next(it) == "1";
  const auto mount = jailer::find_cgroup_mount(one ? 1 : 2, one ? "pids" : "");
  if (!mount) std::cerr << "SKIPPED: " << failure.what << ": " << mount.error().message << '\n';
  return mount.has_value();
}

}  // namespace

TEST_CASE("what goes wrong is said in one line, and nothing is left") {
  if (!have_root()) return;
  for (const Failure& failure : kFailures) {
    INFO(failure.what);
    if (!can_test(failure)) continue;
    const Jails jails;
    add_executables(jails);
    Words options;
    for (const std::string& word : failure.options) options.push_back(with_paths(word, jails));
    Words command = jails.command("x", options, {"wait"});
    const auto repeated = std::ranges::find(options, "--chroot-base-dir");
    if (repeated != options.end()) command.erase(command.begin() + 5, command.begin() + 7);
    if (*failure.executable != '\0') {
      // Under the name that cgroups are looked for.
      const std::string own = jails.folder().path("own");
      std::filesystem::create_directory(own);
      std::error_code missing;
      std::filesystem::rename(jails.folder().path(failure.executable), own + "/" + jails.name(), missing);
      command[4] = own + "/" + jails.name();
    }
    const std::string prepare = with_paths(failure.prepare, jails);
    std::string before = jails.all_that_is_left();
    if (!prepare.empty()) {
      // What the test itself puts there stays, but no mount is seen from here.
      Program only({"/bin/true"}, {.prepare = prepare});
      REQUIRE(only.finish() == 0);
      before = jails.all_that_is_left();
    }
    const std::string again =
        prepare.find("mount") == std::string::npos ? "" : prepare.substr(prepare.find("mount"));
    Program jail(command, {.prepare = again});
    CHECK(jail.finish() == 1);
    CHECK(jail.errors().find(failure.error) != std::string::npos);
    CHECK(jail.errors().starts_with("mayfly-jailer: "));
    CHECK(std::ranges::count(jail.errors(), '\n') == 1);
    CHECK(jail.errors().find("SECRET") == std::string::npos);
    CHECK(jail.output().empty());
    INFO(jail.errors());
    CHECK(jails.all_that_is_left() == before);
  }
}

TEST_CASE("a second jail of the same id leaves the first alone") {
  if (!have_root()) return;
  const Jails jails;
  Program first(jails.command("twin", {}, {"wait", "list"}));
  first.wait_for("ready");
  const std::string before = jails.all_that_is_left();
  Program second(jails.command("twin", {}, {"list"}));
  CHECK(second.finish() == 1);
  CHECK(second.errors().find("exists already") != std::string::npos);
  CHECK(second.errors().find("--cleanup twin") != std::string::npos);
  CHECK(jails.all_that_is_left() == before);
  CHECK(first.finish() == 0);
  CHECK_FALSE(first.value("node /dev/kvm").empty());
}

TEST_CASE("no folder comes into a jail as a descriptor") {
  if (!have_root()) return;
  const Jails jails;
  const auto folder = base::open_file("/", O_RDONLY | O_DIRECTORY);
  REQUIRE(folder.has_value());
  Program passed(jails.command("folder", {"--pass-fd", "20"}, {"wait"}), {.pass_fd = folder->get()});
  CHECK(passed.finish() == 1);
  CHECK(passed.errors() ==
        "mayfly-jailer: descriptor 20 is a folder, by which the VMM could leave the jail\n");
  std::string words = "exec";
  for (const std::string& word : jails.command("stdin", {}, {"wait"})) words += " " + word;
  Program standard({"/bin/sh", "-c", words + " </"});
  CHECK(standard.finish() == 1);
  CHECK(standard.errors().find("descriptor 0 is a folder") != std::string::npos);
  CHECK(jails.all_that_is_left().empty());
}

TEST_CASE("only root makes a jail without --userns") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("user", {}, {}), {.user = kUid});
  CHECK(jail.finish() == 1);
  CHECK(jail.errors() == "mayfly-jailer: making a jail takes root, or --userns\n");
}

TEST_CASE("--cleanup removes a jail that ended, and its cgroups, and nothing else") {
  if (!have_root()) return;
  const bool cgroups = jailer::find_cgroup_mount(1, "pids").has_value();
  const Jails jails;
  Words options = {"--new-pid-ns"};
  if (cgroups) options.insert(options.end(), {"--cgroup-version", "1", "--cgroup", "pids.max=5"});
  const Words cleanup = {jailer_program(), "--cleanup", "old", "--chroot-base-dir", jails.base()};
  {
    Program jail(jails.command("old", options, {"work", "wait"}));
    jail.wait_for("ready");
    Program early(cleanup);
    CHECK(early.finish() == 1);
    CHECK(early.errors().find("runs in the jail") != std::string::npos);
    CHECK(std::filesystem::exists(jails.root("old") + "/dev/kvm"));
    CHECK(jail.finish() == 0);
  }
  Program neighbour(jails.command("new", {}, {"wait"}));
  neighbour.wait_for("ready");
  const std::string victim = jails.folder().file("victim", "x");
  std::filesystem::create_symlink(jails.folder().path("."), jails.root("old") + "/link");
  // The VMM was told to end, and does so when it does: its cgroup empties then.
  REQUIRE(eventually([&] {
    Program late(cleanup);
    return late.finish() == 0;
  }));
  CHECK_FALSE(std::filesystem::exists(jails.base() + "/" + jails.name() + "/old"));
  CHECK(jails.all_that_is_left().find("/old") == std::string::npos);
  CHECK(std::filesystem::exists(victim));
  CHECK(std::filesystem::exists(jails.root("new") + "/dev/kvm"));
  Program again(cleanup);
  CHECK(again.finish() == 1);
  CHECK(again.errors() == fmt::format("mayfly-jailer: there is no jail old in {}\n", jails.base()));
}

TEST_CASE("--cleanup goes into nothing that is mounted in a jail") {
  if (!have_root()) return;
  const Jails jails;
  Program jail(jails.command("disks", {}, {}));
  CHECK(jail.finish() == 0);
  const std::string inner = jails.root("disks") + "/inner";
  std::filesystem::create_directory(inner);
  const std::string precious = jails.folder().file("precious", "x");
  Program cleanup({jailer_program(), "--cleanup", "disks", "--chroot-base-dir", jails.base()},
                  {.prepare = "mount --bind " + jails.folder().path(".") + " " + inner});
  CHECK(cleanup.finish() == 1);
  CHECK(cleanup.errors().find("something is mounted on " + inner) != std::string::npos);
  CHECK(std::filesystem::exists(precious));
}
