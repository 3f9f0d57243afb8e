// `mayfly image import`: containers' images.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/image.h"
#include "cli/image_store.h"

namespace mayfly::cli {

struct ImportRequest {
  std::string archive;    // an OCI layout, as a folder or a tar archive, or what `docker save` writes
  std::string name;       // to store it by; "": the archive's file name without .tar and what follows
  std::string reference;  // which of the archive's images; needed where it has several
  std::string init;       // as in ImageRequest
};

struct ImportSummary {
  StoredImage image;
  std::vector<std::string> warnings;  // sentences for the user
};

// Unpacks the image's layers with skopeo and umoci, makes an ext4 image as build_image() does, and stores it
// with its configuration. Without root, files keep their owners too, except for links and what else cannot
// have extended attributes, which belong to root; device nodes become empty files. `step` is told what is
// done next. On failure nothing is left behind.
base::Result<ImportSummary> import_image(const ImportRequest& request, const ImageStore& store,
                                         const std::function<void(std::string_view)>& step);

// Takes the extended attribute with which umoci notes an owner (rootlesscontaine.rs) off the tree's files.
base::Result<std::vector<FileOwner>> take_owners(const std::string& tree);

}  // namespace mayfly::cli
