// `mayfly image build`: a root file system image out of a folder or a tar archive.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

class HeldSignals;

struct FileOwner {
  std::string path;  // from the root of the image, with a leading slash
  std::uint32_t uid;
  std::uint32_t gid;
};

struct ImageRequest {
  std::string source;  // a folder, a tar archive (compressed or not), or "-": an archive on standard input
  std::string output;  // replaced if it exists, when the new image is complete
  std::uint64_t size_mib = 0;          // of the file system; 0: what the content needs and room to spare
  std::string init;                    // the mayfly-init to put in; "": the one beside this program
  std::vector<FileOwner> owners = {};  // other than those in the source
};

struct ImageSummary {
  std::uint64_t entries = 0;          // files, folders and so on that came from the source
  std::uint64_t size_bytes = 0;       // of the file system; the file is sparse
  std::uint64_t disk_bytes = 0;       // that the file takes on disk
  std::vector<std::string> warnings;  // sentences for the user
};

// Makes an ext4 image that mounts fast: no journal, no lazy initialisation. It has the source's files with
// owners, modes, links, device nodes and extended attributes; mayfly-init as /sbin/mayfly-init; and the
// folders that are mounted upon. Needs mke2fs and debugfs, for an archive tar, and, where the caller is not
// root, fakeroot: then the files of a folder belong to root in the image.
//
// With SOURCE_DATE_EPOCH in the environment the same source gives the same image, byte for byte, provided
// that its folders list their entries in the same order.
//
// The source is not changed. On failure, and when SIGINT, SIGTERM or SIGHUP comes in between, nothing is left
// behind; those signals are blocked while it runs. The errors are sentences with the remedy.
base::Result<ImageSummary> build_image(const ImageRequest& request);
// For who holds the signals already.
base::Result<ImageSummary> build_image(const ImageRequest& request, const HeldSignals& signals);

}  // namespace mayfly::cli
