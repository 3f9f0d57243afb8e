#include "cli/virtual_machine.h"

#include <unistd.h>

#include <fmt/ranges.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;

namespace {

bool exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

// The first of `names` in the first of `folders` that has one.
Result<std::string> find_artifact(const std::vector<std::string>& folders,
                                  const std::vector<std::string>& names, const char* what, const char* option,
                                  const char* remedy = kQuickstart) {
  for (const std::string& folder : folders) {
    for (const std::string& name : names) {
      std::string path = folder + "/" + name;
      if (exists(path)) return path;
    }
  }
  return fail("no {} at {}/{}: {}, or give one with {}", what, folders.front(), names.front(), remedy,
              option);
}

Result<std::string> find_program(const std::string& name, const std::string& executable_folder) {
  std::string beside = fmt::format("{}/{}", executable_folder, name);
  if (exists(beside)) return beside;
  const char* const path = std::getenv("PATH");
  std::istringstream folders(path != nullptr ? path : "");
  for (std::string folder; std::getline(folders, folder, ':');) {
    std::string candidate = fmt::format("{}/{}", folder.empty() ? "." : folder, name);
    if (::access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return fail("no {} at {} or in $PATH: {}", name, beside, kQuickstart);
}

Result<std::string> find_vmm(const std::string& executable_folder) {
  return find_program("mayfly-vmm", executable_folder);
}

// For mayfly-init.
std::string network_words(const NetworkPlan& network) {
  std::string words = fmt::format(" address={} gateway={}", to_text(network.guest), to_text(network.gateway));
  std::vector<std::string> servers;
  for (const Ipv4 each : network.nameservers) servers.push_back(to_text(each));
  if (!servers.empty()) words += fmt::format(" dns={}", fmt::join(servers, ","));
  if (!network.search.empty()) words += fmt::format(" search={}", fmt::join(network.search, ","));
  return words;
}

nlohmann::ordered_json interface_of(const NetworkPlan& network) {
  nlohmann::ordered_json interface = {{"iface_id", "eth0"}};
  if (!network.tap.empty()) interface["host_dev_name"] = network.tap;
  if (!network.socket_path.empty()) interface["socket_path"] = network.socket_path;
  interface["mtu"] = network.mtu;
  return interface;
}

}  // namespace

std::vector<std::string> artifact_folders(const std::string& executable_folder) {
  const char* const chosen = std::getenv("MAYFLY_ARTIFACTS");
  if (chosen != nullptr && chosen[0] != '\0') return {chosen};
  // <tree>/build/<preset>/bin/mayfly
  std::string tree = executable_folder;
  for (int level = 0; level < 3; ++level) tree.resize(std::min(tree.size(), tree.rfind('/')));
  const std::string prefix = executable_folder.substr(0, executable_folder.rfind('/'));
  return {tree + "/artifacts", prefix + "/share/mayfly", "/usr/share/mayfly"};
}

Result<RunFiles> find_files(const RunOptions& options, const std::string& executable_folder) {
  const std::vector<std::string> folders = artifact_folders(executable_folder);
  RunFiles files{.vmm = TRY(find_vmm(executable_folder)), .kernel = options.kernel, .rootfs = options.rootfs};
  if (files.kernel.empty()) {
    files.kernel = options.cpus == 1
                       ? TRY(find_artifact(folders, {"vmlinux", "vmlinux-smp"}, "guest kernel", "--kernel"))
                       : TRY(find_artifact(folders, {"vmlinux-smp"}, "guest kernel for several CPUs",
                                           "--kernel", "kernels/build.sh builds it, in some minutes"));
  }
  if (files.rootfs.empty()) {
    files.rootfs = TRY(find_artifact(folders, {"rootfs.ext4"}, "root file system", "--rootfs"));
  }
  return files;
}

Result<std::string> find_jailer(const std::string& executable_folder) {
  auto jailer = find_program("mayfly-jailer", executable_folder);
  if (!jailer) return fail("{}, or run without a jail by --no-jail", jailer.error().message);
  return jailer;
}

RunFiles locate_files(const std::string& executable_folder) {
  const std::vector<std::string> folders = artifact_folders(executable_folder);
  return {.vmm = find_vmm(executable_folder).value_or(""),
          .kernel = find_artifact(folders, {"vmlinux", "vmlinux-smp"}, "", "").value_or(""),
          .rootfs = find_artifact(folders, {"rootfs.ext4"}, "", "").value_or("")};
}

std::string boot_arguments(const RunOptions& options, const NetworkPlan* network) {
  // kernels/README.md has the reason for each word. Messages cost an exit for every few bytes: without a
  // reader only a panic is worth them. The warm-reset flag is how mayfly-vmm tells a panic from a clean end.
  std::string line = options.console ? "console=ttyS0 loglevel=7" : "console=ttyS0 loglevel=1";
  line += " reboot=k,panic_warm panic=-1 tsc=reliable swiotlb=noforce";
  if (options.cpus > 1) line += " rcupdate.rcu_expedited=1 percpu_alloc=page";
  line += " init=/sbin/mayfly-init -- ";
  switch (options.root_mode) {
    case RootMode::kScratch:
      line += "scratch";
      break;
    case RootMode::kReadOnly:
      line += "readonly";
      break;
    case RootMode::kWritable:
      line += "writable";
      break;
  }
  line += " session";
  if (network != nullptr) line += network_words(*network);
  return line;
}

Result<std::string> vmm_configuration(const RunOptions& options, const RunFiles& files,
                                      const std::string& vsock_path, const NetworkPlan* network) {
  nlohmann::ordered_json configuration = {
      {"boot-source", {{"kernel_image_path", files.kernel}, {"boot_args", boot_arguments(options, network)}}},
      {"machine-config", {{"vcpu_count", options.cpus}, {"mem_size_mib", options.memory_mib}}},
      {"drives",
       {{{"drive_id", "rootfs"},
         {"is_root_device", true},
         {"path_on_host", files.rootfs},
         {"is_read_only", options.root_mode != RootMode::kWritable},
         // What a short command reads is in the page cache: no ring is worth setting up.
         {"io_engine", "Sync"}}}},
      {"vsock", {{"guest_cid", 3}, {"uds_path", vsock_path}}},
  };
  if (network != nullptr) {
    configuration["network-interfaces"] = nlohmann::ordered_json::array({interface_of(*network)});
  }
  try {
    return configuration.dump();
  } catch (const nlohmann::json::type_error&) {
    return fail("{} or {}: a path that is not UTF-8 cannot be told to mayfly-vmm", files.kernel,
                files.rootfs);
  }
}

}  // namespace mayfly::cli
