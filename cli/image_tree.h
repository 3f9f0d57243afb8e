// What there is in the folder that an image is made of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

struct TreeEntry {
  std::string path;       // from the root of the tree, with a leading slash
  std::int64_t modified;  // seconds since 1970
};

struct Tree {
  std::vector<TreeEntry> entries;  // without the root itself
  std::uint64_t blocks = 0;        // of kImageBlock bytes, for contents, folders and long links
};

inline constexpr std::uint64_t kImageBlock = 4096;

// Walks the folder, on its own file system and on those mounted in it. Follows no links.
base::Result<Tree> survey_tree(const std::string& root);

// Where `path`, absolute in the tree, leads when its symbolic links are followed as if `root` were "/"; also
// absolute in the tree. The last parts need not exist.
base::Result<std::string> resolve_in_tree(const std::string& root, const std::string& path);

// Removes the folder and everything in it, including folders that lack the owner's permissions.
void remove_tree(const std::string& root);

}  // namespace mayfly::cli
