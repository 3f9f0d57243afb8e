#include "api/drive_json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "api/rate_limiter_json.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;
using namespace std::string_view_literals;

namespace {

// Our extension: what the guest writes goes there, and path_on_host is only read.
Result<std::string> parse_overlay_path(Fields& fields, const virtio::block::Config& block) {
  const auto path = TRY(fields.optional_text("overlay_path"));
  if (!path) return std::string();
  const std::string name = fields.path_of("overlay_path");
  if (path->empty()) return fail("{}: the path is empty", name);
  if (*path == block.path) return fail("{}: \"{}\" is the drive's path_on_host", name, *path);
  if (block.read_only) return fail("{}: not for a drive that has is_read_only set", name);
  if (block.io_engine == virtio::block::IoEngine::kAsync) {
    return fail("{}: the drive is served synchronously; use \"Sync\", or leave io_engine out",
                fields.path_of("io_engine"));
  }
  return *path;
}

Status check_files(const vmm::DriveConfig& other, const vmm::DriveConfig& drive, std::string_view where) {
  const virtio::block::Config& a = other.block;
  const virtio::block::Config& b = drive.block;
  if (!b.overlay_path.empty() && b.overlay_path == a.overlay_path) {
    return fail("{}.overlay_path: \"{}\" is the overlay of the drive \"{}\" already", where, b.overlay_path,
                a.id);
  }
  if (!b.overlay_path.empty() && b.overlay_path == a.path) {
    return fail("{}.overlay_path: \"{}\" is the path_on_host of the drive \"{}\"", where, b.overlay_path,
                a.id);
  }
  if (!a.overlay_path.empty() && a.overlay_path == b.path) {
    return fail("{}.path_on_host: \"{}\" is the overlay of the drive \"{}\"", where, b.path, a.id);
  }
  const bool a_writes = !a.read_only && a.overlay_path.empty();
  const bool b_writes = !b.read_only && b.overlay_path.empty();
  if (a.path == b.path && ((!a.overlay_path.empty() && b_writes) || (!b.overlay_path.empty() && a_writes))) {
    return fail(
        "{}.path_on_host: \"{}\" is the base of one drive's overlay and written to by the other of \"{}\" "
        "and \"{}\"; set is_read_only or overlay_path for it",
        where, b.path, a.id, b.id);
  }
  return {};
}

}  // namespace

Result<std::string> parse_device_id(Fields& fields, std::string_view name) {
  std::string id = TRY(fields.text(name));
  const bool plain = std::ranges::all_of(id, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  });
  if (id.empty() || !plain) {
    return fail("{}: \"{}\" is not made of letters, digits and _", fields.path_of(name), id);
  }
  return id;
}

Result<vmm::DriveConfig> parse_drive(const json& object, const std::string& where) {
  Fields fields = TRY(Fields::of(object, where));
  vmm::DriveConfig drive;
  drive.block.id = TRY(parse_device_id(fields, "drive_id"));
  drive.is_root_device = TRY(fields.flag("is_root_device"));
  TRY(fields.refuse("socket", "vhost-user drives are not supported; use path_on_host"));
  drive.block.path = TRY(fields.text("path_on_host"));
  drive.block.read_only = TRY(fields.flag_or("is_read_only", false));
  drive.partuuid = TRY(fields.optional_text("partuuid"));
  static constexpr std::array kCacheTypes = {"Unsafe"sv, "Writeback"sv};
  if (TRY(fields.choice("cache_type", kCacheTypes)) == "Writeback") {
    drive.block.cache_type = virtio::block::CacheType::kWriteback;
  }
  static constexpr std::array kEngines = {"Sync"sv, "Async"sv};
  if (const std::string engine = TRY(fields.choice("io_engine", kEngines));
      fields.find("io_engine") != nullptr) {
    using virtio::block::IoEngine;
    drive.block.io_engine = engine == "Async" ? IoEngine::kAsync : IoEngine::kSync;
  }
  drive.block.rate_limiter = TRY(parse_rate_limiter(fields, "rate_limiter"));
  drive.block.overlay_path = TRY(parse_overlay_path(fields, drive.block));
  TRY(fields.finish());
  return drive;
}

Status check_drive(std::span<const vmm::DriveConfig> others, const vmm::DriveConfig& drive,
                   const std::string& where) {
  for (const vmm::DriveConfig& other : others) {
    if (other.is_root_device && drive.is_root_device) {
      return fail("{}.is_root_device: \"{}\" is the root device already", where, other.block.id);
    }
    TRY(check_files(other, drive, where));
  }
  return {};
}

json to_json(const vmm::DriveConfig& drive) {
  const virtio::block::Config& block = drive.block;
  json object = {
      {"drive_id", block.id},
      {"is_root_device", drive.is_root_device},
      {"path_on_host", block.path},
      {"is_read_only", block.read_only},
      {"cache_type", block.cache_type == virtio::block::CacheType::kWriteback ? "Writeback" : "Unsafe"}};
  using virtio::block::IoEngine;
  if (block.io_engine != IoEngine::kBest) {
    object["io_engine"] = block.io_engine == IoEngine::kAsync ? "Async" : "Sync";
  }
  if (drive.partuuid) object["partuuid"] = *drive.partuuid;
  if (!block.overlay_path.empty()) object["overlay_path"] = block.overlay_path;
  add_rate_limiter(object, "rate_limiter", block.rate_limiter);
  return object;
}

Result<DriveUpdate> parse_drive_update(const json& object) {
  Fields fields = TRY(Fields::of(object, "drive"));
  DriveUpdate update;
  update.id = TRY(parse_device_id(fields, "drive_id"));
  update.path = TRY(fields.optional_text("path_on_host"));
  if (update.path && update.path->empty())
    return fail("{}: the path is empty", fields.path_of("path_on_host"));
  if (fields.find("rate_limiter") != nullptr) {
    update.rate_limiter = TRY(parse_rate_limiter(fields, "rate_limiter"));
  }
  TRY(fields.finish());
  return update;
}

}  // namespace mayfly::api
