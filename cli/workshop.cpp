#include "cli/workshop.h"

#include <stdlib.h>

#include <cerrno>

#include "cli/image_tree.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;

Result<Workshop> Workshop::create(const std::string& folder) {
  std::string name = folder + "/.mayfly-image-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return fail_errno(errno, "make a folder in {}", folder);
  return Workshop(std::move(name));
}

Workshop::~Workshop() {
  if (!path_.empty()) remove_tree(path_);
}

}  // namespace mayfly::cli
