// What this machine offers to virtual machines, found out by trying.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::cli {

// An errno value where something was tried: 0 when it worked.
struct HostFacts {
  int kvm_error = 0;                    // of opening /dev/kvm
  int kvm_version = 0;                  // KVM_GET_API_VERSION
  std::optional<std::string> hardware;  // "vmx" or "svm"
  bool under_hypervisor = false;        // this machine is a guest itself
  bool nested_allowed = false;          // guests of this machine may have guests
  int tun_error = 0;                    // of opening /dev/net/tun
  bool root = false;                    // who asks
  bool has_nft = false;                 // the program
  bool has_passt = false;               // likewise
  bool has_way_out = false;             // an IPv4 default route
  bool cgroup_v2 = false;
  std::vector<std::string> cgroup_v2_controllers;
  std::vector<std::string> cgroup_v1_controllers;
  int user_namespace_error = 0;  // of unshare(CLONE_NEWUSER)
  std::string jail_obstacle;     // jail_obstacle() of vmm_place.h
  int landlock_abi = 0;          // 0: none
  bool seccomp_filters = false;
  int io_uring_error = 0;
  int memfd_error = 0;
  int userfaultfd_error = 0;
  std::string transparent_huge_pages;  // the setting in force; empty: not built in
  std::uint64_t huge_pages_free = 0;
  std::uint64_t huge_pages_total = 0;
  std::vector<std::string>
      unmitigated;   // names in /sys/devices/system/cpu/vulnerabilities that say "Vulnerable"
  bool smt = false;  // two threads of a core run at once
  bool ksm = false;  // the kernel merges equal pages
  bool swap = false;
  std::string kernel;  // paths of the artifacts; empty: not found
  std::string rootfs;
  std::string vmm;
};

HostFacts gather_facts(const std::string& executable_folder);

// What /proc/cpuinfo, or another file, says of the first processor; a large machine's whole file takes long
// to make. Empty when it cannot be read.
std::string first_processor(const std::string& cpuinfo = "/proc/cpuinfo");

// The parsers behind it.
struct CgroupMounts {
  std::string v2;  // where the tree is mounted; empty: nowhere
  std::vector<std::string> v1_controllers;
};
CgroupMounts parse_cgroup_mounts(std::string_view mounts);  // /proc/self/mounts
std::vector<std::string> split_words(std::string_view text);
// The word in brackets: "always [madvise] never".
std::string chosen_word(std::string_view text);
// A number of /proc/meminfo; 0 when it is not there.
std::uint64_t meminfo_number(std::string_view meminfo, std::string_view name);
// Whether a word is among the flags of /proc/cpuinfo's first processor.
bool has_cpu_flag(std::string_view cpuinfo, std::string_view flag);

}  // namespace mayfly::cli
