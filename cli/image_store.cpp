#include "cli/image_store.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"

namespace mayfly::cli {
namespace {

namespace fs = std::filesystem;
using base::fail;
using base::fail_because;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;
using nlohmann::json;

constexpr std::size_t kLongestName = 100;

bool is_plain(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

Result<std::string> ImageStore::default_folder() {
  const auto variable = [](const char* name) {
    const char* const value = std::getenv(name);
    // The XDG specification: what is not absolute is ignored.
    return value != nullptr && *value == '/' ? std::string(value) : std::string();
  };
  if (const std::string data = variable("XDG_DATA_HOME"); !data.empty()) return data + "/mayfly/images";
  if (::geteuid() == 0) return "/var/lib/mayfly/images";
  const std::string home = variable("HOME");
  if (home.empty()) return fail("set HOME or XDG_DATA_HOME: the images have to be somewhere");
  return home + "/.local/share/mayfly/images";
}

Status ImageStore::check_name(const std::string& name) {
  const bool good = !name.empty() && name.size() <= kLongestName && is_plain(name.front()) &&
                    std::ranges::all_of(name, [](char c) {
                      return is_plain(c) || c == '.' || c == '_' || c == '-' || c == ':';
                    });
  if (good) return {};
  return fail("\"{}\" is no name for an image: letters, digits, and after the first . _ - : are, at most {}",
              name.substr(0, kLongestName), kLongestName);
}

Result<std::string> ImageStore::prepare() const {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return fail_errno(error.value(), "make the folder {}", folder_);
  return folder_;
}

Result<UniqueFd> ImageStore::lock(int how) const {
  UniqueFd fd = TRY(base::open_file(folder_, O_RDONLY | O_DIRECTORY));
  while (::flock(fd.get(), how) != 0) {
    if (errno != EINTR) return fail_errno(errno, "lock {}", folder_);
  }
  return fd;
}

Status ImageStore::add(StoredImage image) const {
  TRY(check_name(image.name));
  const UniqueFd locked = TRY(lock(LOCK_EX));
  const json facts = {
      {"source", image.source}, {"created", image.created}, {"config", to_json(image.config)}};
  if (::rename(image.file.c_str(), image_file(image.name).c_str()) != 0) {
    return fail_errno(errno, "write {}", image_file(image.name));
  }
  return base::write_file_atomically(facts_file(image.name), base::to_text(facts) + "\n");
}

Result<std::vector<std::string>> ImageStore::names() const {
  std::vector<std::string> names;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().stem();
    if (entry.path().extension() == ".json" && check_name(name)) names.push_back(name);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return fail_errno(error.value(), "read the folder {}", folder_);
  }
  std::ranges::sort(names);
  return names;
}

Result<StoredImage> ImageStore::read(const std::string& name) const {
  StoredImage image;
  image.name = name;
  image.file = image_file(name);
  const json facts = TRY(base::read_json(facts_file(name)));
  if (!facts.is_object() || !facts.contains("config")) return fail("{}: not an image's", facts_file(name));
  auto config = parse_image_config(facts["config"]);
  if (!config) return fail_because(std::move(config).error(), "{}", facts_file(name));
  image.config = std::move(*config);
  for (const auto& [key, text] : {std::pair{"source", &image.source}, std::pair{"created", &image.created}}) {
    if (facts.contains(key) && facts[key].is_string()) *text = facts[key].get<std::string>();
  }
  struct stat file {};
  if (::stat(image.file.c_str(), &file) != 0) return fail_errno(errno, "look at {}", image.file);
  image.size_bytes = static_cast<std::uint64_t>(file.st_size);
  image.disk_bytes = static_cast<std::uint64_t>(file.st_blocks) * 512;
  return image;
}

Result<StoredImage> ImageStore::find(const std::string& name) const {
  const std::vector<std::string> known = TRY(names());
  if (std::ranges::find(known, name) == known.end()) {
    if (known.empty()) {
      return fail("there is no image {}: make it with \"mayfly image import ARCHIVE --name {}\"", name, name);
    }
    return fail("there is no image {}; there are: {}", name, fmt::join(known, ", "));
  }
  const UniqueFd locked = TRY(lock(LOCK_SH));
  return read(name);
}

Result<std::vector<StoredImage>> ImageStore::list() const {
  std::vector<StoredImage> images;
  if (TRY(names()).empty()) return images;
  const UniqueFd locked = TRY(lock(LOCK_SH));
  for (const std::string& name : TRY(names())) images.push_back(TRY(read(name)));
  return images;
}

Status ImageStore::remove(const std::string& name) const {
  TRY(find(name));
  const UniqueFd locked = TRY(lock(LOCK_EX));
  for (const std::string& file : {facts_file(name), image_file(name)}) {
    if (::unlink(file.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, "remove {}", file);
  }
  return {};
}

}  // namespace mayfly::cli
