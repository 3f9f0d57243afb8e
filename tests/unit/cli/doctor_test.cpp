#include "cli/doctor.h"

#include <catch2/catch.hpp>
#include <cerrno>
#include <nlohmann/json.hpp>

using namespace mayfly::cli;
using Catch::Matchers::Contains;
using Words = std::vector<std::string>;

namespace {

HostFacts good_machine() {
  HostFacts facts;
  facts.kvm_version = 12;
  facts.hardware = "vmx";
  facts.root = facts.has_nft = facts.has_passt = facts.has_way_out = true;
  facts.cgroup_v2 = true;
  facts.cgroup_v2_controllers = {"cpu", "memory"};
  facts.landlock_abi = 4;
  facts.seccomp_filters = true;
  facts.transparent_huge_pages = "madvise";
  facts.vmm = facts.kernel = facts.rootfs = "/somewhere";
  return facts;
}

const Check& named(const std::vector<Check>& checks, const std::string& name) {
  const auto it = std::ranges::find(checks, name, &Check::name);
  REQUIRE(it != checks.end());
  return *it;
}

}  // namespace

TEST_CASE("a good machine has nothing to do") {
  const auto checks = assess(good_machine());
  CHECK(can_run_linux_guests(checks));
  for (const Check& check : checks) {
    CHECK(check.state == Check::State::kGood);
    CHECK(check.remedy.empty());
  }
}

TEST_CASE("what keeps guests from running is bad, and has a remedy") {
  for (const int error : {ENOENT, EACCES, EBUSY}) {
    HostFacts facts = good_machine();
    facts.kvm_error = error;
    const auto checks = assess(facts);
    CHECK(!can_run_linux_guests(checks));
    CHECK(!named(checks, "/dev/kvm").remedy.empty());
  }
  HostFacts facts = good_machine();
  facts.hardware.reset();
  const auto checks = assess(facts);
  CHECK(!can_run_linux_guests(checks));
  CHECK_THAT(named(checks, "hardware virtualization").finding, Contains("PVM"));
  CHECK_THAT(named(checks, "hardware virtualization").remedy, Contains("lab/run"));
}

TEST_CASE("the jail that is possible is named") {
  HostFacts facts = good_machine();
  CHECK(named(assess(facts), "jail").finding == "by root, a user for each machine, with Landlock 4");
  facts.root = false;
  facts.landlock_abi = 0;
  CHECK(named(assess(facts), "jail").finding == "in a user namespace, without Landlock");
  facts.jail_obstacle = "it takes Linux 5.12 or newer";
  CHECK(named(assess(facts), "jail").state == Check::State::kNote);
  CHECK(named(assess(facts), "jail").finding == "none: it takes Linux 5.12 or newer");
}

TEST_CASE("what leaks between guests is a note, with a remedy for each") {
  HostFacts facts = good_machine();
  facts.unmitigated = {"mds"};
  facts.smt = facts.ksm = facts.swap = true;
  const auto checks = assess(facts);
  const Check& leaks = named(checks, "leaks between guests");
  CHECK(can_run_linux_guests(checks));
  CHECK(leaks.state == Check::State::kNote);
  CHECK(leaks.finding == "mds SMT KSM swap");
  for (const char* remedy : {"mitigations", "smt/control", "ksm/run", "swapoff"})
    CHECK_THAT(leaks.remedy, Contains(remedy));
}

TEST_CASE("what only some uses want is a note") {
  HostFacts facts = good_machine();
  facts.tun_error = ENOENT;
  facts.user_namespace_error = EPERM;
  facts.landlock_abi = 0;
  facts.seccomp_filters = false;
  facts.io_uring_error = ENOSYS;
  facts.kernel.clear();
  const auto checks = assess(facts);
  CHECK(can_run_linux_guests(checks));
  for (const char* name :
       {"/dev/net/tun", "user namespaces", "Landlock", "seccomp", "io_uring", "guest kernel"}) {
    CHECK(named(checks, name).state == Check::State::kNote);
    CHECK(!named(checks, name).remedy.empty());
  }
}

TEST_CASE("the report as JSON, and without colours where nobody sees them") {
  HostFacts facts = good_machine();
  facts.hardware.reset();
  const auto checks = assess(facts);
  const auto json = nlohmann::json::parse(as_json(checks));
  CHECK(json["can_run_linux_guests"] == false);
  CHECK(json["checks"].size() == checks.size());
  CHECK(json["checks"][1]["state"] == "bad");
  CHECK(as_table(checks, false).find('\033') == std::string::npos);
  CHECK(as_table(checks, true).find('\033') != std::string::npos);
}

TEST_CASE("cgroup mounts are read from the mount table") {
  const CgroupMounts mounts = parse_cgroup_mounts(
      "proc /proc proc rw 0 0\n"
      "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n"
      "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n"
      "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nshort line\n");
  CHECK(mounts.v2 == "/sys/fs/cgroup/unified");
  CHECK(mounts.v1_controllers == Words{"cpu", "cpuacct"});
  CHECK(parse_cgroup_mounts("").v2.empty());
}

TEST_CASE("small parsers") {
  CHECK(chosen_word("always [madvise] never\n") == "madvise");
  CHECK(chosen_word("none").empty());
  CHECK(chosen_word("] [").empty());
  CHECK(split_words(" a  b\n") == Words{"a", "b"});
  CHECK(meminfo_number("MemTotal: 5 kB\nHugePages_Total:   12\n", "HugePages_Total") == 12);
  CHECK(meminfo_number("HugePages_Totally: 12\n", "HugePages_Total") == 0);
  CHECK(has_cpu_flag("x: y\nflags\t: a hypervisor\n", "hypervisor"));
  CHECK(!has_cpu_flag("x: hypervisor\n", "hypervisor"));
}

TEST_CASE("facts can be gathered anywhere") {
  const auto checks = assess(gather_facts("/nonexistent/bin"));
  CHECK(checks.size() >= 12);
}

TEST_CASE("both ways to a network are looked at, for root and for others") {
  HostFacts facts = good_machine();
  CHECK_THAT(named(assess(facts), "--net=tap").finding, Contains("what --net takes"));
  facts.root = false;
  CHECK(named(assess(facts), "--net=tap").finding == "for root only");
  CHECK_THAT(named(assess(facts), "--net=passt").finding, Contains("what --net takes"));
  facts.has_passt = false;
  CHECK_THAT(named(assess(facts), "--net=passt").remedy, Contains("apt-get install passt"));
  CHECK_THAT(named(assess(facts), "--net=tap").remedy, Contains("apt-get install passt"));
  facts.root = true;
  facts.tun_error = ENOENT;
  CHECK(named(assess(facts), "--net=tap").remedy == "modprobe tun");
  facts.has_nft = false;
  CHECK_THAT(named(assess(facts), "--net=tap").remedy, Contains("apt-get install nftables"));
  facts = good_machine();
  facts.has_way_out = false;
  for (const char* name : {"--net=tap", "--net=passt"}) {
    CHECK(named(assess(facts), name).state == Check::State::kNote);
    CHECK(named(assess(facts), name).finding == "no default route");
  }
  CHECK(can_run_linux_guests(assess(facts)));
}
