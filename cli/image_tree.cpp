#include "cli/image_tree.h"

#include <errno.h>
#include <sys/stat.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <set>
#include <utility>

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using base::fail;
using base::fail_errno;
using base::Result;

// A symbolic link of at most this many bytes is in its inode.
constexpr std::int64_t kLongestFastLink = 59;
constexpr int kMostLinks = 40;  // as the kernel follows

std::uint64_t blocks_for(std::int64_t bytes) {
  return (static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0)) + kImageBlock - 1) / kImageBlock;
}

std::uint64_t blocks_of(const struct stat& entry) {
  if (S_ISLNK(entry.st_mode)) return entry.st_size > kLongestFastLink ? 1 : 0;
  // The source's file system may keep folders smaller than ext4 does.
  if (S_ISDIR(entry.st_mode)) return blocks_for(entry.st_size * 2) + 1;
  if (!S_ISREG(entry.st_mode)) return 0;
  const std::uint64_t whole = blocks_for(entry.st_size);
  // Holes stay holes; file systems that compress would seem to have more of them than they do.
  const std::uint64_t held = blocks_for(entry.st_blocks * 512);
  const bool sparse = held * 2 < whole && held > 0;
  return (sparse ? held : whole) + whole / 256;  // some for the extent tree
}

}  // namespace

Result<Tree> survey_tree(const std::string& root) {
  Tree tree;
  std::set<std::pair<dev_t, ino_t>> seen;
  std::error_code error;
  fs::recursive_directory_iterator at(root, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    struct stat entry {};
    const std::string path = at->path();
    if (::lstat(path.c_str(), &entry) != 0) return fail_errno(errno, "look at {}", path);
    tree.entries.push_back({path.substr(root.size()), entry.st_mtime});
    const bool linked = !S_ISDIR(entry.st_mode) && entry.st_nlink > 1;
    if (linked && !seen.emplace(entry.st_dev, entry.st_ino).second) continue;
    tree.blocks += blocks_of(entry);
  }
  if (error) return fail_errno(error.value(), "read the folder {}", root);
  return tree;
}

Result<std::string> resolve_in_tree(const std::string& root, const std::string& path) {
  std::deque<std::string> rest;
  for (const fs::path& part : fs::path(path)) rest.push_back(part);
  fs::path at = "/";
  int links = 0;
  while (!rest.empty()) {
    const std::string part = std::exchange(rest.front(), {});
    rest.pop_front();
    if (part.empty() || part == "." || part == "/") continue;
    if (part == "..") {
      at = at.parent_path();
      continue;
    }
    std::error_code error;
    const fs::path target = fs::read_symlink(root + (at / part).string(), error);
    if (error) {
      at /= part;
      continue;
    }
    if (++links > kMostLinks) return fail("{}: too many symbolic links", path);
    if (target.is_absolute()) at = "/";
    std::deque<std::string> parts;
    for (const fs::path& each : target) parts.push_back(each);
    rest.insert(rest.begin(), parts.begin(), parts.end());
  }
  return at.string();
}

void remove_tree(const std::string& root) {
  std::error_code error;
  fs::remove_all(root, error);
  if (!error) return;
  fs::recursive_directory_iterator at(root, fs::directory_options::skip_permission_denied, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    // Before the iterator enters it.
    if (at->symlink_status(ignored).type() == fs::file_type::directory) {
      fs::permissions(at->path(), fs::perms::owner_all, fs::perm_options::add, ignored);
    }
  }
  fs::remove_all(root, error);
}

}  // namespace mayfly::cli
