// The images that `mayfly run IMAGE` finds by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/image_config.h"

namespace mayfly::cli {

struct StoredImage {
  std::string name;
  std::string file;              // the root file system image
  std::string source;            // what it was imported from
  std::string created;           // in UTC, as in RFC 3339
  std::uint64_t size_bytes = 0;  // of the file system
  std::uint64_t disk_bytes = 0;  // that the file takes on disk
  ImageConfig config;
};

// A folder with NAME.ext4 and NAME.json for each image. Any number of processes may use it at once: who
// changes it holds its lock, and so does, with others, who reads.
class ImageStore {
 public:
  // $XDG_DATA_HOME/mayfly/images or ~/.local/share/mayfly/images, for root /var/lib/mayfly/images.
  static base::Result<std::string> default_folder();
  // The folder is made when something is added.
  explicit ImageStore(std::string folder) : folder_(std::move(folder)) {}

  // Letters, digits, '.', '_', '-' and ':', at most 100, the first a letter or digit.
  static base::Status check_name(const std::string& name);

  // Makes the folder, for what is to be added.
  [[nodiscard]] base::Result<std::string> prepare() const;
  // Takes image.file, which lies in the folder under another name, in; replaces one of this name.
  [[nodiscard]] base::Status add(StoredImage image) const;
  // The error names those that there are.
  [[nodiscard]] base::Result<StoredImage> find(const std::string& name) const;
  // By name.
  [[nodiscard]] base::Result<std::vector<StoredImage>> list() const;
  // Machines that run on it go on.
  [[nodiscard]] base::Status remove(const std::string& name) const;

 private:
  [[nodiscard]] base::Result<base::UniqueFd> lock(int how) const;
  [[nodiscard]] base::Result<std::vector<std::string>> names() const;
  [[nodiscard]] base::Result<StoredImage> read(const std::string& name) const;
  [[nodiscard]] std::string image_file(const std::string& name) const {
    return folder_ + "/" + name + ".ext4";
  }
  [[nodiscard]] std::string facts_file(const std::string& name) const {
    return folder_ + "/" + name + ".json";
  }

  std::string folder_;
};

}  // namespace mayfly::cli
