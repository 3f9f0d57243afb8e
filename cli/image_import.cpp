#include "cli/image_import.h"

#include <fmt/chrono.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>

#include "base/json.h"
#include "cli/image_tree.h"
#include "cli/tool.h"
#include "cli/workshop.h"

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using nlohmann::json;

constexpr const char* kOwnerAttribute = "user.rootlesscontainers";
// Of the one image in the OCI layout of our own.
constexpr const char* kReference = "image";

bool exists(const std::string& path) {
  struct stat found {};
  return ::stat(path.c_str(), &found) == 0;
}

// Whether a tar archive has a file of this name.
Result<bool> is_in(const std::string& archive, const std::string& name, const HeldSignals& signals) {
  for (const std::string& each : {name, "./" + name}) {
    if (run_tool({.words = {"tar", "--list", "--file", archive, each}, .environment = {}}, signals))
      return true;
    if (HeldSignals::stop_asked()) return fail("interrupted");
  }
  return false;
}

// The JSON object of a blob, by the descriptor of it (OCI image-spec, descriptor.md).
Result<json> read_blob(const std::string& layout, const json& descriptor) {
  const std::string digest = descriptor.is_object() ? descriptor.value("digest", "") : "";
  constexpr std::string_view kKind = "sha256:";
  const bool plain = digest.starts_with(kKind) &&
                     digest.find_first_not_of("0123456789abcdef", kKind.size()) == std::string::npos;
  if (!plain) return fail("a blob is named \"{}\"", digest.substr(0, 100));
  const std::string file = layout + "/blobs/sha256/" + digest.substr(kKind.size());
  json blob = TRY(base::read_json(file));
  if (!blob.is_object()) return fail("the image's configuration is not a JSON object");
  return blob;
}

// What skopeo calls the archive.
Result<std::string> transport_of(const ImportRequest& request, const HeldSignals& signals) {
  const std::string& archive = request.archive;
  const std::string reference = request.reference.empty() ? "" : ":" + request.reference;
  struct stat found {};
  if (::stat(archive.c_str(), &found) != 0) return fail_errno(errno, "cannot read {}", archive);
  // It would end the name in what skopeo is told.
  if (archive.find(':') != std::string::npos) {
    return fail("{}: skopeo takes no file with a colon in its name: rename it", archive);
  }
  if (S_ISDIR(found.st_mode)) {
    if (!exists(archive + "/oci-layout"))
      return fail("{} is no OCI layout: it has no file oci-layout", archive);
    return "oci:" + archive + reference;
  }
  if (TRY(is_in(archive, "manifest.json", signals))) return "docker-archive:" + archive + reference;
  if (TRY(is_in(archive, "oci-layout", signals))) return "oci-archive:" + archive + reference;
  return fail(
      "{} is neither what `docker save` writes nor an OCI layout; a root file system by itself is for "
      "`mayfly "
      "image build`",
      archive);
}

std::string name_of(const std::string& archive) {
  fs::path path = fs::absolute(archive).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  std::string name = path.filename();
  if (const std::size_t tar = name.find(".tar"); tar != std::string::npos && tar > 0) name.resize(tar);
  return name;
}

std::string now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now()));
}

// rootlesscontaine.rs, version 1: a protocol buffer with the fields 1, uid, and 2, gid, both uint32; zero is
// absent.
std::optional<std::array<std::uint32_t, 2>> parse_owner(std::span<const unsigned char> bytes) {
  std::array<std::uint32_t, 2> owner{};
  std::size_t at = 0;
  while (at < bytes.size()) {
    const unsigned tag = bytes[at++];
    if (tag != 0x08 && tag != 0x10) return std::nullopt;
    std::uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
      if (at == bytes.size() || shift > 28) return std::nullopt;
      value |= static_cast<std::uint64_t>(bytes[at] & 0x7fU) << shift;
      if ((bytes[at++] & 0x80U) == 0) break;
    }
    if (value >= UINT32_MAX) return std::nullopt;
    owner[tag == 0x08 ? 0 : 1] = static_cast<std::uint32_t>(value);
  }
  return owner;
}

class Importer {
 public:
  Importer(const ImportRequest& request, const Workshop& workshop, const HeldSignals& signals,
           const std::function<void(std::string_view)>& step)
      : request_(request), workshop_(workshop), signals_(signals), step_(step) {}

  // The image's file is in the workshop.
  Result<ImportSummary> import();

 private:
  Status run(std::vector<std::string> words, std::string_view what);
  Result<ImageConfig> read_config();
  Status unpack();

  const ImportRequest& request_;
  const Workshop& workshop_;
  const HeldSignals& signals_;
  const std::function<void(std::string_view)>& step_;
};

Status Importer::run(std::vector<std::string> words, std::string_view what) {
  auto done = run_tool({.words = std::move(words), .environment = {}}, signals_);
  if (!done) return fail_because(std::move(done).error(), "{} {}", what, request_.archive);
  return {};
}

Result<ImageConfig> Importer::read_config() {
  step_("reading the archive");
  const std::string from = TRY(transport_of(request_, signals_));
  const std::string layout = "oci:" + workshop_.path("layout") + ":" + kReference;
  // Of images for several machines, ours; signatures are for who fetches images, which we do not.
  TRY(run({"skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", "amd64", "--tmpdir",
           workshop_.path(""), "copy", "--quiet", from, layout},
          "cannot read"));
  const json index = TRY(base::read_json(workshop_.path("layout/index.json")));
  if (!index.is_object() || !index.contains("manifests") || !index["manifests"].is_array() ||
      index["manifests"].size() != 1) {
    return fail("{}: no image was found in it", request_.archive);
  }
  const json manifest = TRY(read_blob(workshop_.path("layout"), index["manifests"][0]));
  const json config = TRY(read_blob(workshop_.path("layout"), manifest.value("config", json())));
  return parse_oci_config(config);
}

Status Importer::unpack() {
  step_("unpacking the layers");
  std::vector<std::string> words = {"umoci", "raw", "unpack", "--image",
                                    workshop_.path("layout") + ":" + kReference};
  if (::geteuid() != 0) words.emplace_back("--rootless");
  words.push_back(workshop_.path("tree"));
  return run(std::move(words), "cannot unpack");
}

Result<ImportSummary> Importer::import() {
  ImportSummary summary;
  ImageConfig config = TRY(read_config());
  TRY(unpack());
  config.user = TRY(resolve_user(config.user, workshop_.path("tree")));
  ImageRequest build{.source = workshop_.path("tree"),
                     .output = workshop_.path("image"),
                     .init = request_.init,
                     .owners = {}};
  if (::geteuid() != 0) build.owners = TRY(take_owners(build.source));
  step_("making the image");
  ImageSummary built = TRY(build_image(build, signals_));
  summary.warnings = std::move(built.warnings);
  summary.image = {.name = request_.name,
                   .file = build.output,
                   .source = fs::absolute(request_.archive),
                   .created = now(),
                   .size_bytes = built.size_bytes,
                   .disk_bytes = built.disk_bytes,
                   .config = std::move(config)};
  return summary;
}

}  // namespace

Result<std::vector<FileOwner>> take_owners(const std::string& tree) {
  std::vector<FileOwner> owners;
  for (const TreeEntry& entry : TRY(survey_tree(tree)).entries) {
    const std::string path = tree + entry.path;
    std::array<unsigned char, 64> bytes{};
    const ssize_t size = ::lgetxattr(path.c_str(), kOwnerAttribute, bytes.data(), bytes.size());
    if (size < 0) continue;
    const auto owner = parse_owner(std::span(bytes).first(static_cast<std::size_t>(size)));
    if (!owner) return fail("{}: the owner in the attribute {} cannot be read", entry.path, kOwnerAttribute);
    if (::lremovexattr(path.c_str(), kOwnerAttribute) != 0) return fail_errno(errno, "change {}", path);
    owners.push_back({entry.path, (*owner)[0], (*owner)[1]});
  }
  return owners;
}

Result<ImportSummary> import_image(const ImportRequest& wanted, const ImageStore& store,
                                   const std::function<void(std::string_view)>& step) {
  ImportRequest request = wanted;
  if (request.name.empty()) request.name = name_of(request.archive);
  if (auto named = ImageStore::check_name(request.name); !named) {
    return fail_because(std::move(named).error(), "--name");
  }
  const HeldSignals signals;
  const std::string folder = TRY(store.prepare());
  const Workshop workshop = TRY(Workshop::create(folder));
  ImportSummary summary = TRY(Importer(request, workshop, signals, step).import());
  TRY(store.add(summary.image));
  summary.image = TRY(store.find(request.name));
  return summary;
}

}  // namespace mayfly::cli
