// What a machine is made of, besides its devices: "boot-source" and "machine-config".
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "vmm/config.h"

namespace mayfly::api {

base::Result<vmm::BootSource> parse_boot_source(const nlohmann::json& object);
// `before`: what a field that is absent stays at; nullptr: vcpu_count and mem_size_mib are required.
base::Result<vmm::MachineConfig> parse_machine_config(const nlohmann::json& object,
                                                      const vmm::MachineConfig* before = nullptr);

// As they are parsed, with every default filled in.
nlohmann::json to_json(const vmm::BootSource& boot);
nlohmann::json to_json(const vmm::MachineConfig& machine);

}  // namespace mayfly::api
