// A file in the making, which appears whole or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::base {

// Has a temporary name in the folder of its place, and is gone with this object unless it was published.
class Draft {
 public:
  // For the place `path`; nobody else may read it yet (mode 0600). Errors name the path.
  static Result<Draft> create(std::string path);
  ~Draft();
  Draft(Draft&& other) noexcept
      : fd_(std::move(other.fd_)), path_(std::move(other.path_)), name_(std::exchange(other.name_, {})) {}
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;
  Draft& operator=(Draft&&) = delete;

  [[nodiscard]] int fd() const { return fd_.get(); }

  enum class Over : std::uint8_t {
    kNothing,  // EEXIST when the place is taken
    kAFile,
  };
  // Its content goes to stable storage, then it gets its place.
  Status publish(Over over);

 private:
  Draft(UniqueFd fd, std::string path, std::string name)
      : fd_(std::move(fd)), path_(std::move(path)), name_(std::move(name)) {}
  UniqueFd fd_;
  std::string path_;
  std::string name_;  // the temporary one; empty: it has its place
};

}  // namespace mayfly::base
