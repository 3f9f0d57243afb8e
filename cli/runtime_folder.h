// Where a run keeps its sockets.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace mayfly::cli {

// A private folder (mode 0700) of one run, below $XDG_RUNTIME_DIR/mayfly, /run/mayfly for root, or
// /tmp/mayfly-UID; short enough for sockets. The destructor removes it with the files in it.
class RuntimeFolder {
 public:
  // Room for the longest file name in it, in a socket's address.
  static constexpr std::size_t kLongestName = 24;

  static base::Result<RuntimeFolder> create();
  // Below the first of `parents` that can be used; missing ones are made.
  static base::Result<RuntimeFolder> create_below(const std::vector<std::string>& parents);
  ~RuntimeFolder();
  RuntimeFolder(RuntimeFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  RuntimeFolder(const RuntimeFolder&) = delete;
  RuntimeFolder& operator=(const RuntimeFolder&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit RuntimeFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Where such folders may be, the first choice first: $XDG_RUNTIME_DIR/mayfly, …
std::vector<std::string> runtime_parents();

// Whether it is a folder, ours, and closed to others; the error says what is wrong. The former makes it where
// it is missing.
base::Status make_private_folder(const std::string& path);
base::Status check_private_folder(const std::string& path);

// Removes a folder and what is in it; one that is gone already is as good. Its name is free at once.
void remove_folder(const std::string& path);

}  // namespace mayfly::cli
