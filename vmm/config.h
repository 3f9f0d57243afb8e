// What a virtual machine is made from: plain data, filled by api/ from JSON or by a test.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mmds/config.h"
#include "mmds/store.h"
#include "virtio/block/device.h"
#include "virtio/net/device.h"
#include "virtio/vsock/device.h"

namespace mayfly::vmm {

inline constexpr std::uint32_t kMostVcpus = 32;
inline constexpr std::uint64_t kLeastMemoryMib = 1;
inline constexpr std::uint64_t kMostMemoryMib = 1024 * 1024;

struct BootSource {
  std::string kernel_image_path;
  std::optional<std::string> initrd_path;
  std::optional<std::string> boot_args;  // absent: kDefaultBootArgs
};

enum class HugePages : std::uint8_t {
  kNone,
  k2M,           // of the host's reserve (hugetlbfs); mem_size_mib is even
  kTransparent,  // where the host finds some
};

struct MachineConfig {
  std::uint32_t vcpu_count = 1;      // 1–kMostVcpus
  std::uint64_t mem_size_mib = 128;  // kLeastMemoryMib–kMostMemoryMib
  HugePages huge_pages = HugePages::kNone;
};

struct DriveConfig {
  virtio::block::Config block;
  bool is_root_device = false;
  std::optional<std::string> partuuid;  // of the root file system's partition; absent: the whole drive
};

// Where the serial port leads. Borrowed; -1: nowhere.
struct ConsoleConfig {
  int input = 0;   // stdin
  int output = 1;  // stdout
};

struct VmConfig {
  BootSource boot;
  MachineConfig machine;
  std::vector<DriveConfig> drives;
  std::vector<virtio::net::Config> network_interfaces;  // eth0 first, each with an id and a tap of its own
  std::optional<virtio::vsock::Config> vsock;
  std::optional<mmds::Config> mmds;       // its interfaces are among network_interfaces
  std::shared_ptr<mmds::Store> metadata;  // what it serves, shared with whoever changes it; null: nothing
  std::string kvm_path = "/dev/kvm";      // or /dev/fd/N, one that was passed in
  bool boot_timer = false;
  std::function<void()> on_guest_ready = {};  // the guest told the boot timer; on a vCPU's thread
  // The first act of each vCPU's thread, on it, before any guest instruction: to give up what it will not
  // need. An error, and the machine cannot be made. Null: nothing.
  std::function<base::Status()> confine_vcpu = {};
  ConsoleConfig console;
};

}  // namespace mayfly::vmm
