#include "jailer/options.h"

#include <unistd.h>

#include <catch2/catch.hpp>

using namespace mayfly;
using namespace mayfly::jailer;

namespace {

using Words = std::vector<const char*>;

base::Result<std::optional<Answer>> parse(Words words, Options& options) {
  words.insert(words.begin(), "mayfly-jailer");
  return parse_command_line(static_cast<int>(words.size()), words.data(), options);
}

const Words kLeast = {"--id", "a", "--exec-file", "/x/vmm", "--uid", "1", "--gid", "2"};

Words with(Words more) {
  Words words = kLeast;
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

TEST_CASE("the least that a jail needs, and its defaults") {
  Options options;
  REQUIRE(parse(kLeast, options).has_value());
  CHECK(options.id == "a");
  CHECK(options.exec_name == "vmm");
  CHECK(options.uid == 1);
  CHECK(options.gid == 2);
  CHECK(options.base == "/srv/jailer");
  CHECK(options.vmm_arguments.empty());
  CHECK_FALSE(options.has_cgroup());
  CHECK_FALSE(options.cgroup_version.has_value());
}

TEST_CASE("all options, and what follows the dashes untouched") {
  Options options;
  REQUIRE(parse(with({"--netns",
                      "/run/netns/x",
                      "--daemonize",
                      "--new-pid-ns",
                      "--cgroup",
                      "cpu.shares=10",
                      "--cgroup",
                      "pids.max=3",
                      "--cgroup-version",
                      "1",
                      "--parent-cgroup",
                      "a/b",
                      "--resource-limit",
                      "fsize=9",
                      "--resource-limit",
                      "no-file=8",
                      "--chroot-base-dir",
                      "/jails",
                      "--pass-fd",
                      "9",
                      "--pass-fd",
                      "4",
                      "--pass-fd",
                      "9",
                      "--oom-score-adj",
                      "-5",
                      "--",
                      "--id",
                      "b",
                      "--",
                      "--help"}),
                options)
              .has_value());
  CHECK(options.id == "a");
  CHECK(options.netns == "/run/netns/x");
  CHECK(options.daemonize);
  CHECK(options.new_pid_ns);
  REQUIRE(options.cgroups.size() == 2);
  CHECK(options.cgroups[1].file == "pids.max");
  CHECK(options.cgroup_version == 1);
  CHECK(options.parent_cgroup == "a/b");
  CHECK(options.limits.size() == 2);
  CHECK(options.base == "/jails");
  CHECK(options.pass_fds == std::vector<int>{4, 9});
  CHECK(options.oom_score_adj == -5);
  CHECK(options.vmm_arguments == std::vector<std::string>{"--id", "b", "--", "--help"});
}

TEST_CASE("--help and --version are answered") {
  Options options;
  const auto version = parse({"--version"}, options);
  REQUIRE(version.has_value());
  CHECK((*version)->text.starts_with("mayfly-jailer v"));
  const auto help = parse({"--help"}, options);
  REQUIRE(help.has_value());
  CHECK((*help)->text.find("--chroot-base-dir") != std::string::npos);
}

TEST_CASE("with --userns, the user is oneself") {
  Options options;
  REQUIRE(parse({"--id", "a", "--exec-file", "/x/vmm", "--userns"}, options).has_value());
  CHECK(options.uid == ::geteuid());
  CHECK(options.gid == ::getegid());
}

TEST_CASE("--cleanup takes an id, and makes no jail") {
  Options options;
  REQUIRE(parse({"--cleanup", "a", "--chroot-base-dir", "/jails"}, options).has_value());
  CHECK(options.cleanup_id == "a");
  CHECK(options.exec_name.empty());
  CHECK_FALSE(parse({"--cleanup", "../a"}, options).has_value());
  Options both;
  CHECK_FALSE(parse({"--cleanup", "a", "--id", "b"}, both).has_value());
}

TEST_CASE("a wrong command line is refused in a line that names the word") {
  const auto error_of = [](const Words& words) {
    Options options;
    const auto parsed = parse(words, options);
    return parsed ? std::string() : parsed.error().message;
  };
  const auto refused = [&](const Words& words, std::string_view text) {
    const std::string error = error_of(words);
    INFO(error);
    CHECK(error.find(text) != std::string::npos);
    CHECK(error.find('\n') == std::string::npos);
  };
  refused({}, "--id is needed");
  refused({"--id", "a"}, "--exec-file is needed");
  refused({"--id", "a", "--exec-file", "/x"}, "--uid is needed");
  refused({"--id", "a", "--exec-file", "/x", "--uid", "1"}, "--gid is needed");
  refused({"--id", "a", "--exec-file", "/x", "--uid", "root", "--gid", "1"},
          "--uid: \"root\" is not a number");
  refused({"--id", "../a", "--exec-file", "/x", "--uid", "1", "--gid", "1"}, "--id \"../a\"");
  refused(with({"--chroot-base-dir", "/srv/../etc"}), "--chroot-base-dir");
  refused(with({"--parent-cgroup", "../x"}), "--parent-cgroup");
  refused(with({"--cgroup", "x"}), "--cgroup \"x\"");
  refused(with({"--cgroup-version", "3"}), "--cgroup-version");
  refused(with({"--resource-limit", "core=1"}), "--resource-limit");
  refused(with({"--pass-fd", "2"}), "--pass-fd");
  refused(with({"--oom-score-adj", "1001"}), "--oom-score-adj");
  refused(with({"--nonsense"}), "--nonsense");
  refused(with({"stray"}), "stray");
  refused(with({"--id", "b"}), "--id");
}
