// A drive, in the configuration file and on the control socket.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>

#include "api/fields.h"
#include "base/result.h"
#include "virtio/rate_limiter.h"
#include "vmm/config.h"

namespace mayfly::api {

// `where` names the drive in errors: "drives[1]".
base::Result<vmm::DriveConfig> parse_drive(const nlohmann::json& object, const std::string& where);
// Whether a machine that has `others` may have `drive` as well: one root device, and no file written to by
// two. By the files' names; a lock finds two names of one overlay.
base::Status check_drive(std::span<const vmm::DriveConfig> others, const vmm::DriveConfig& drive,
                         const std::string& where);
nlohmann::json to_json(const vmm::DriveConfig& drive);

// What may change of a drive while the machine is there; absent: stays.
struct DriveUpdate {
  std::string id;
  std::optional<std::string> path;
  std::optional<virtio::RateLimiterConfig> rate_limiter;
};
base::Result<DriveUpdate> parse_drive_update(const nlohmann::json& object);

// drive_id and iface_id: letters, digits and _, at least one of them.
base::Result<std::string> parse_device_id(Fields& fields, std::string_view name);

}  // namespace mayfly::api
