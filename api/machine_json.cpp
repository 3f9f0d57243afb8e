#include "api/machine_json.h"

#include <array>
#include <nlohmann/json.hpp>

#include "api/fields.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using nlohmann::json;
using namespace std::string_view_literals;

namespace {

// By the values of vmm::HugePages.
constexpr std::array kHugePages = {"None"sv, "2M"sv, "Transparent"sv};

}  // namespace

Result<vmm::BootSource> parse_boot_source(const json& object) {
  Fields fields = TRY(Fields::of(object, "boot-source"));
  vmm::BootSource boot;
  boot.kernel_image_path = TRY(fields.text("kernel_image_path"));
  boot.initrd_path = TRY(fields.optional_text("initrd_path"));
  boot.boot_args = TRY(fields.optional_text("boot_args"));
  TRY(fields.finish());
  return boot;
}

Result<vmm::MachineConfig> parse_machine_config(const json& object, const vmm::MachineConfig* before) {
  Fields fields = TRY(Fields::of(object, "machine-config"));
  vmm::MachineConfig machine = before != nullptr ? *before : vmm::MachineConfig{};
  if (before == nullptr || fields.find("vcpu_count") != nullptr) {
    machine.vcpu_count = static_cast<std::uint32_t>(TRY(fields.number("vcpu_count", 1, vmm::kMostVcpus)));
  }
  if (before == nullptr || fields.find("mem_size_mib") != nullptr) {
    machine.mem_size_mib = TRY(fields.number("mem_size_mib", vmm::kLeastMemoryMib, vmm::kMostMemoryMib));
  }
  if (TRY(fields.flag_or("smt", false))) {
    return fail("{}: each vCPU is a core of its own; use false", fields.path_of("smt"));
  }
  if (TRY(fields.flag_or("track_dirty_pages", false))) {
    return fail("{}: serves snapshots of what changed, which this version does not have; use false",
                fields.path_of("track_dirty_pages"));
  }
  if (const std::string pages = TRY(fields.choice("huge_pages", kHugePages));
      before == nullptr || fields.find("huge_pages") != nullptr) {
    machine.huge_pages =
        static_cast<vmm::HugePages>(std::ranges::find(kHugePages, pages) - kHugePages.begin());
  }
  if (machine.huge_pages == vmm::HugePages::k2M && machine.mem_size_mib % 2 != 0) {
    return fail("{}: {} MiB cannot be made of pages of 2 MiB; use an even number, or huge_pages \"None\"",
                fields.path_of("mem_size_mib"), machine.mem_size_mib);
  }
  static constexpr std::array kTemplates = {"None"sv};
  TRY(fields.choice("cpu_template", kTemplates));
  TRY(fields.finish());
  return machine;
}

json to_json(const vmm::BootSource& boot) {
  json object = {{"kernel_image_path", boot.kernel_image_path}};
  if (boot.initrd_path) object["initrd_path"] = *boot.initrd_path;
  if (boot.boot_args) object["boot_args"] = *boot.boot_args;
  return object;
}

json to_json(const vmm::MachineConfig& machine) {
  return {{"vcpu_count", machine.vcpu_count},
          {"mem_size_mib", machine.mem_size_mib},
          {"smt", false},
          {"track_dirty_pages", false},
          {"huge_pages", kHugePages[static_cast<std::size_t>(machine.huge_pages)]}};
}

}  // namespace mayfly::api
