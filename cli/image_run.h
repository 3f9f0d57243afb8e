// `mayfly run IMAGE`: what an image says about how it is run.
#pragma once

#include "base/result.h"
#include "cli/image_store.h"
#include "cli/options.h"

namespace mayfly::cli {

// Fills in what the command line left open: root file system, user, folder, variables, and the command or
// what stands before it.
base::Status apply_image(const StoredImage& image, RunOptions& options);

}  // namespace mayfly::cli
