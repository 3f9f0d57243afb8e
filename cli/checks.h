// What would make a run fail late, or never end: found before it starts, and said in one line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "cli/virtual_machine.h"

namespace mayfly::cli {

// The kind of CPU virtualization that /proc/cpuinfo tells of ("vmx" or "svm"), from the flags of its first
// processor; nothing when there is none.
std::optional<std::string> hardware_virtualization(std::string_view cpuinfo);

// The kind of a file system image ("ext4", "squashfs", …) by its first bytes, of which 64 KiB + 512 are
// enough.
std::optional<std::string> image_kind(std::span<const std::byte> head);

// Whether this machine can run Linux guests: /dev/kvm opens, and there is hardware behind it. An emulating
// KVM would leave a guest hanging for minutes.
base::Status check_host();
// The same for other places than /dev/kvm and /proc/cpuinfo, for tests.
base::Status check_host_at(const std::string& kvm, const std::string& cpuinfo);

// That kernel and root file system can be read, and are what they should be by their first bytes.
base::Status check_files(const RunFiles& files, const RunOptions& options);

}  // namespace mayfly::cli
