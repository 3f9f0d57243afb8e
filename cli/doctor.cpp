#include "cli/doctor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

namespace mayfly::cli {

namespace {

using State = Check::State;
constexpr int kKvmApiVersion = 12;  // the only one there ever was
constexpr const char* kLab =
    "until then, run commands in the lab: lab/run build/release/bin/mayfly run -- ...";

std::string reason(int error) {
  const char* const text = strerrordesc_np(error);
  return text != nullptr ? text : fmt::format("error {}", error);
}

std::string joined(const std::vector<std::string>& words) {
  return words.empty() ? "none" : fmt::format("{}", fmt::join(words, " "));
}

Check check_kvm(const HostFacts& facts) {
  const std::string name = "/dev/kvm";
  switch (facts.kvm_error) {
    case 0:
      break;
    case ENOENT:
    case ENODEV:
    case ENXIO:
      return {name, State::kBad, "missing",
              fmt::format("switch virtualization on in the firmware, then modprobe {}; {}",
                          facts.hardware == "svm" ? "kvm_amd" : "kvm_intel", kLab)};
    case EACCES:
    case EPERM:
      return {name, State::kBad, "you may not open it",
              "join its group: sudo usermod -aG kvm $USER, then log in again"};
    default:
      return {name, State::kBad, reason(facts.kvm_error), kLab};
  }
  if (facts.kvm_version != kKvmApiVersion) {
    return {name, State::kBad, fmt::format("API version {}, not {}", facts.kvm_version, kKvmApiVersion),
            "use a current Linux kernel"};
  }
  return {name, State::kGood, fmt::format("usable, API version {}", facts.kvm_version), {}};
}

Check check_hardware(const HostFacts& facts) {
  const std::string name = "hardware virtualization";
  if (facts.hardware) {
    return {name,
            State::kGood,
            fmt::format("{} ({}){}", *facts.hardware == "vmx" ? "Intel VT-x" : "AMD-V", *facts.hardware,
                        facts.nested_allowed ? "; nested guests allowed" : ""),
            {}};
  }
  const std::string where = facts.under_hypervisor ? "; this machine is a guest of another" : "";
  const std::string remedy =
      facts.under_hypervisor
          ? fmt::format("have nested virtualization switched on for this machine, or use a bare one; {}",
                        kLab)
          : fmt::format("switch VT-x or AMD-V on in the firmware; {}", kLab);
  if (facts.kvm_error == 0) {
    return {name, State::kBad,
            "none: this KVM works without (PVM), and is fit for tiny test guests only" + where, remedy};
  }
  return {name, State::kBad, "none (no vmx or svm flag)" + where, remedy};
}

Check check_cgroups(const HostFacts& facts) {
  const std::string name = "cgroups";
  if (!facts.cgroup_v2 && facts.cgroup_v1_controllers.empty()) {
    return {name, State::kNote, "none mounted",
            "mount -t cgroup2 none /sys/fs/cgroup, to limit what a VM uses"};
  }
  std::string finding;
  if (facts.cgroup_v2) finding = fmt::format("v2: {}", joined(facts.cgroup_v2_controllers));
  if (!facts.cgroup_v1_controllers.empty()) {
    finding += fmt::format("{}v1: {}", finding.empty() ? "" : "; ", joined(facts.cgroup_v1_controllers));
  }
  return {name, State::kGood, finding, {}};
}

// A check of something that either works or does not.
Check check_error(const char* name, int error, const char* remedy) {
  if (error == 0) return {name, State::kGood, "usable", {}};
  return {name, State::kNote, reason(error), remedy};
}

Check check_file(const char* name, const std::string& path) {
  if (!path.empty()) return {name, State::kGood, path, {}};
  return {name, State::kNote, "not found", "scripts/quickstart.sh builds it"};
}

Check check_memory(const HostFacts& facts) {
  const bool none = facts.transparent_huge_pages.empty() && facts.huge_pages_total == 0;
  std::string finding = facts.transparent_huge_pages.empty() ? "transparent: not built in"
                                                             : "transparent: " + facts.transparent_huge_pages;
  finding += fmt::format("; reserved: {} of {} free", facts.huge_pages_free, facts.huge_pages_total);
  const bool off = facts.transparent_huge_pages == "never";
  return {"huge pages", none || off ? State::kNote : State::kGood, finding,
          off ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, for faster guests" : ""};
}

// What `mayfly run` puts around its VMMs.
Check check_jail(const HostFacts& facts) {
  const std::string name = "jail";
  const std::string landlock =
      facts.landlock_abi > 0 ? fmt::format(", with Landlock {}", facts.landlock_abi) : ", without Landlock";
  if (!facts.jail_obstacle.empty()) {
    return {name, State::kNote, "none: " + facts.jail_obstacle, "until then, run guests that you trust"};
  }
  return {name,
          State::kGood,
          (facts.root ? "by root, a user for each machine" : "in a user namespace") + landlock,
          {}};
}

// Ways from one guest to another's data that no jail closes (docs/security.md).
Check check_leaks(const HostFacts& facts) {
  std::vector<std::string> found = facts.unmitigated;
  std::vector<std::string> remedies;
  if (!found.empty()) remedies.emplace_back("new firmware and kernel, no mitigations=off");
  if (facts.smt) {
    found.emplace_back("SMT");
    remedies.emplace_back("echo off >/sys/devices/system/cpu/smt/control");
  }
  if (facts.ksm) {
    found.emplace_back("KSM");
    remedies.emplace_back("echo 2 >/sys/kernel/mm/ksm/run");
  }
  if (facts.swap) {
    found.emplace_back("swap");
    remedies.emplace_back("swapoff -a");
  }
  const std::string name = "leaks between guests";
  if (found.empty()) return {name, State::kGood, "none known: CPU mitigated; no SMT, KSM or swap", {}};
  return {name, State::kNote, fmt::format("{}", fmt::join(found, " ")),
          fmt::format("for guests of different owners: {}", fmt::join(remedies, "; "))};
}

// `mayfly run --net`, in the two ways there are.
Check check_net_by_tap(const HostFacts& facts) {
  const std::string name = "--net=tap";
  if (!facts.has_nft)
    return {name, State::kNote, "no nft", "apt-get install nftables; it takes root besides"};
  if (facts.tun_error != 0 && facts.root) {
    return {name, State::kNote, "no /dev/net/tun: " + reason(facts.tun_error), "modprobe tun"};
  }
  if (!facts.root) {
    return {name, State::kNote, "for root only",
            facts.has_passt ? "" : "apt-get install passt, for --net=passt"};
  }
  if (!facts.has_way_out) return {name, State::kNote, "no default route", "ip route add default via GATEWAY"};
  return {name, State::kGood, "usable, and what --net takes", {}};
}

Check check_net_by_passt(const HostFacts& facts) {
  const std::string name = "--net=passt";
  if (!facts.has_passt) {
    return {name, State::kNote, "no passt", "apt-get install passt, for guests with a network without root"};
  }
  if (!facts.has_way_out) return {name, State::kNote, "no default route", "ip route add default via GATEWAY"};
  return {name, State::kGood, facts.root ? "usable" : "usable, and what --net takes", {}};
}

const char* state_name(State state) {
  switch (state) {
    case State::kGood:
      return "good";
    case State::kNote:
      return "note";
    case State::kBad:
      return "bad";
  }
  return "";
}

const char* colour_of(State state) {
  switch (state) {
    case State::kGood:
      return "\033[32m";
    case State::kNote:
      return "\033[33m";
    case State::kBad:
      return "\033[31m";
  }
  return "";
}

}  // namespace

std::vector<Check> assess(const HostFacts& facts) {
  std::vector<Check> checks = {check_kvm(facts), check_hardware(facts)};
  checks.push_back(check_error("/dev/net/tun", facts.tun_error, "modprobe tun, for guests with a network"));
  checks.push_back(check_net_by_tap(facts));
  checks.push_back(check_net_by_passt(facts));
  checks.push_back(check_jail(facts));
  checks.push_back(check_leaks(facts));
  checks.push_back(check_cgroups(facts));
  checks.push_back(check_error("user namespaces", facts.user_namespace_error,
                               "sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"));
  checks.push_back(
      facts.landlock_abi > 0
          ? Check{"Landlock", State::kGood, fmt::format("ABI {}", facts.landlock_abi), {}}
          : Check{"Landlock", State::kNote, "none", "add landlock to lsm= on the host's command line"});
  checks.push_back(facts.seccomp_filters ? Check{"seccomp", State::kGood, "filters usable", {}}
                                         : Check{"seccomp", State::kNote, "no filters",
                                                 "use a kernel with CONFIG_SECCOMP_FILTER"});
  checks.push_back(check_error("io_uring", facts.io_uring_error, "sysctl kernel.io_uring_disabled=0"));
  checks.push_back(check_error("memfd", facts.memfd_error, "use a kernel with CONFIG_MEMFD_CREATE"));
  checks.push_back(
      check_error("userfaultfd", facts.userfaultfd_error,
                  "sysctl vm.unprivileged_userfaultfd=1, or open /dev/userfaultfd to your group"));
  checks.push_back(check_memory(facts));
  checks.push_back(check_file("mayfly-vmm", facts.vmm));
  checks.push_back(check_file("guest kernel", facts.kernel));
  checks.push_back(check_file("root file system", facts.rootfs));
  return checks;
}

bool can_run_linux_guests(const std::vector<Check>& checks) {
  return std::ranges::none_of(checks, [](const Check& check) { return check.state == State::kBad; });
}

std::string as_table(const std::vector<Check>& checks, bool colours) {
  std::size_t width = 0;
  for (const Check& check : checks) width = std::max(width, check.name.size());
  std::string out;
  for (const Check& check : checks) {
    const char* const mark = check.state == State::kGood ? "ok" : check.state == State::kNote ? "--" : "NO";
    out += fmt::format("{}{}{}  {:<{}}  {}\n", colours ? colour_of(check.state) : "", mark,
                       colours ? "\033[0m" : "", check.name, width, check.finding);
    if (!check.remedy.empty()) out += fmt::format("    {:<{}}  -> {}\n", "", width, check.remedy);
  }
  out +=
      can_run_linux_guests(checks) ? "\nLinux guests can run here.\n" : "\nLinux guests cannot run here.\n";
  return out;
}

std::string as_json(const std::vector<Check>& checks) {
  auto list = nlohmann::ordered_json::array();
  for (const Check& check : checks) {
    list.push_back({{"name", check.name},
                    {"state", state_name(check.state)},
                    {"finding", check.finding},
                    {"remedy", check.remedy}});
  }
  const nlohmann::ordered_json all = {{"can_run_linux_guests", can_run_linux_guests(checks)},
                                      {"checks", list}};
  return all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::cli
