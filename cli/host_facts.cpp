#include "cli/host_facts.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "base/file.h"
#include "base/unique_fd.h"
#include "cli/checks.h"
#include "cli/ipv4.h"
#include "cli/options.h"
#include "cli/tool.h"
#include "cli/virtual_machine.h"
#include "cli/vmm_place.h"

namespace mayfly::cli {

using base::UniqueFd;

namespace {

constexpr std::size_t kLongestFile = 4U << 20U;

// Empty when it cannot be read.
std::string text_of(const std::string& path) {
  auto content = base::read_file(path, kLongestFile);
  return content ? std::move(*content) : std::string();
}

// The errno of a call that gives a descriptor, which is closed again.
int error_of(long fd) {
  if (fd < 0) return errno;
  ::close(static_cast<int>(fd));
  return 0;
}

void look_at_kvm(HostFacts& facts) {
  const UniqueFd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  facts.kvm_error = kvm.valid() ? 0 : errno;
  if (kvm.valid()) facts.kvm_version = ::ioctl(kvm.get(), KVM_GET_API_VERSION, 0);
  const std::string cpuinfo = first_processor();
  facts.hardware = hardware_virtualization(cpuinfo);
  facts.under_hypervisor = has_cpu_flag(cpuinfo, "hypervisor");
  for (const char* module : {"kvm_intel", "kvm_amd"}) {
    const std::string value = text_of(fmt::format("/sys/module/{}/parameters/nested", module));
    if (value.starts_with('Y') || value.starts_with('1')) facts.nested_allowed = true;
  }
}

void look_at_network(HostFacts& facts) {
  facts.root = ::geteuid() == 0;
  facts.has_nft = has_tool("nft");
  facts.has_passt = has_tool("passt");
  const auto routes = read_routes();
  facts.has_way_out = routes && default_route(*routes) != nullptr;
}

void look_at_cgroups(HostFacts& facts) {
  const CgroupMounts mounts = parse_cgroup_mounts(text_of("/proc/self/mounts"));
  facts.cgroup_v2 = !mounts.v2.empty();
  facts.cgroup_v1_controllers = mounts.v1_controllers;
  if (facts.cgroup_v2) facts.cgroup_v2_controllers = split_words(text_of(mounts.v2 + "/cgroup.controllers"));
}

void look_at_system_calls(HostFacts& facts) {
  facts.user_namespace_error = error_in_child([] { return ::unshare(CLONE_NEWUSER) == 0; });
  facts.jail_obstacle = jail_obstacle();
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  facts.landlock_abi = static_cast<int>(std::max(abi, 0L));
  const auto actions = split_words(text_of("/proc/sys/kernel/seccomp/actions_avail"));
  facts.seccomp_filters = std::ranges::find(actions, "kill_process") != actions.end();
  // A ring of no entries is refused with EINVAL by a kernel that would make one of more.
  std::array<std::byte, 120> io_uring_params{};
  const int io_uring = error_of(::syscall(SYS_io_uring_setup, 0, io_uring_params.data()));
  facts.io_uring_error = io_uring == EINVAL ? 0 : io_uring;
  facts.memfd_error = error_of(::memfd_create("mayfly-doctor", MFD_CLOEXEC));
  facts.userfaultfd_error = error_of(::syscall(SYS_userfaultfd, O_CLOEXEC));
}

void look_at_leaks(HostFacts& facts, const std::string& meminfo) {
  const std::filesystem::path folder = "/sys/devices/system/cpu/vulnerabilities";
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    if (text_of(entry.path()).starts_with("Vulnerable")) facts.unmitigated.push_back(entry.path().filename());
  }
  std::ranges::sort(facts.unmitigated);
  facts.smt = text_of("/sys/devices/system/cpu/smt/active").starts_with('1');
  facts.ksm = text_of("/sys/kernel/mm/ksm/run").starts_with('1');
  facts.swap = meminfo_number(meminfo, "SwapTotal") > 0;
}

}  // namespace

HostFacts gather_facts(const std::string& executable_folder) {
  HostFacts facts;
  look_at_kvm(facts);
  facts.tun_error = error_of(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  look_at_network(facts);
  look_at_cgroups(facts);
  look_at_system_calls(facts);
  facts.transparent_huge_pages = chosen_word(text_of("/sys/kernel/mm/transparent_hugepage/enabled"));
  const std::string meminfo = text_of("/proc/meminfo");
  facts.huge_pages_free = meminfo_number(meminfo, "HugePages_Free");
  facts.huge_pages_total = meminfo_number(meminfo, "HugePages_Total");
  look_at_leaks(facts, meminfo);
  const auto files = locate_files(executable_folder);
  facts.vmm = files.vmm;
  facts.kernel = files.kernel;
  facts.rootfs = files.rootfs;
  return facts;
}

std::vector<std::string> split_words(std::string_view text) {
  std::istringstream in{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string first_processor(const std::string& cpuinfo) {
  const UniqueFd fd(::open(cpuinfo.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text(4096, '\0');
  const ssize_t n = ::read(fd.get(), text.data(), text.size());
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

CgroupMounts parse_cgroup_mounts(std::string_view mounts) {
  // Options of a v1 mount that are no controllers.
  static constexpr std::array<std::string_view, 9> kNoControllers = {
      "rw", "ro", "nosuid", "nodev", "noexec", "relatime", "noatime", "xattr", "clone_children"};
  CgroupMounts out;
  std::istringstream lines{std::string(mounts)};
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> fields = split_words(line);
    if (fields.size() < 4) continue;
    if (fields[2] == "cgroup2") out.v2 = fields[1];
    if (fields[2] != "cgroup") continue;
    std::istringstream options(fields[3]);
    for (std::string option; std::getline(options, option, ',');) {
      const bool other = option.find('=') != std::string::npos ||
                         std::ranges::find(kNoControllers, option) != kNoControllers.end();
      if (!other) out.v1_controllers.push_back(option);
    }
  }
  return out;
}

std::string chosen_word(std::string_view text) {
  const std::size_t open = text.find('[');
  const std::size_t close = text.find(']');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return {};
  return std::string(text.substr(open + 1, close - open - 1));
}

std::uint64_t meminfo_number(std::string_view meminfo, std::string_view name) {
  std::istringstream lines{std::string(meminfo)};
  for (std::string line; std::getline(lines, line);) {
    const std::vector<std::string> words = split_words(line);
    if (words.size() < 2 || words[0] != fmt::format("{}:", name)) continue;
    std::uint64_t value = 0;
    std::from_chars(words[1].data(), words[1].data() + words[1].size(), value);
    return value;
  }
  return 0;
}

bool has_cpu_flag(std::string_view cpuinfo, std::string_view flag) {
  std::istringstream lines{std::string(cpuinfo)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("flags")) continue;
    const std::vector<std::string> words = split_words(line);
    return std::ranges::find(words, flag) != words.end();
  }
  return false;
}

}  // namespace mayfly::cli
