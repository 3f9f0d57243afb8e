// From a configuration to what the guest's kernel is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "vmm/config.h"
#include "vmm/x86_64/command_line.h"

namespace mayfly::vmm {

// Refuses what no machine can be made from; the message names the field and the allowed values.
base::Status check(const VmConfig& config);

// The drives in the order of their device numbers: the root drive, if there is one, is /dev/vda.
std::vector<const DriveConfig*> drives_in_order(const VmConfig& config);

// boot_args, the root drive, and one word for each of `device_count` virtio devices.
base::Result<x86_64::CommandLine> command_line(const VmConfig& config, std::uint32_t device_count);

}  // namespace mayfly::vmm
