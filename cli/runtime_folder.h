// Where a run keeps its sockets, and who removes it when mayfly cannot.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

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

// A small process of its own that waits for mayfly's end, however it comes: then it kills the VMM if that is
// still there, puts the terminal back if mayfly left it raw, and removes the folder. Of mayfly's descriptors
// it holds only the terminal open, and it is in a session of its own.
class Keeper {
 public:
  // Forks: call it while there is one thread.
  // `terminal`: what RawTerminal will be entered on, or -1.
  static base::Result<Keeper> start(const std::string& folder, int terminal);
  // Lets it do its work now, and waits for its end.
  ~Keeper();
  Keeper(Keeper&& other) noexcept : link_(std::move(other.link_)), pid_(std::exchange(other.pid_, -1)) {}
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Tells it of the process to kill.
  base::Status watch_over(int pidfd);

 private:
  Keeper(base::UniqueFd link, pid_t pid) : link_(std::move(link)), pid_(pid) {}
  base::UniqueFd link_;  // its end of file is mayfly's end
  pid_t pid_;
};

}  // namespace mayfly::cli
