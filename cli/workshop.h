// A folder for what is in the making.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace mayfly::cli {

// A new folder in another one, with whatever is put into it; gone with this object.
class Workshop {
 public:
  static base::Result<Workshop> create(const std::string& folder);
  ~Workshop();
  Workshop(Workshop&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Workshop(const Workshop&) = delete;
  Workshop& operator=(const Workshop&) = delete;
  Workshop& operator=(Workshop&&) = delete;

  [[nodiscard]] std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  explicit Workshop(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace mayfly::cli
