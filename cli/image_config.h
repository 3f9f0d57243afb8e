// What an image says about how it is run: a part of the OCI image configuration.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

struct ImageConfig {
  std::vector<std::string> entrypoint;   // goes before any command
  std::vector<std::string> command;      // where none is given
  std::vector<std::string> environment;  // NAME=VALUE
  std::string user;                      // UID or UID:GID, in digits; "": root
  std::string directory;                 // absolute, or "": /

  friend bool operator==(const ImageConfig&, const ImageConfig&) = default;
};

// Of an OCI or Docker image configuration (OCI image-spec, config.md); its user is still a name where it is
// one. Refuses images that are not for Linux on x86-64.
base::Result<ImageConfig> parse_oci_config(const nlohmann::json& image);

// `user` (USER, UID, each with or without :GROUP or :GID) by the /etc/passwd and /etc/group of the tree.
base::Result<std::string> resolve_user(const std::string& user, const std::string& tree);

// What the image store keeps.
nlohmann::json to_json(const ImageConfig& config);
base::Result<ImageConfig> parse_image_config(const nlohmann::json& object);

}  // namespace mayfly::cli
