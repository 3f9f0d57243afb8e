#include "base/draft.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

namespace mayfly::base {

Result<Draft> Draft::create(std::string path) {
  std::string name = path + ".XXXXXX";
  UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "make {}", path);
  return Draft(std::move(fd), std::move(path), std::move(name));
}

Draft::~Draft() {
  if (!name_.empty()) ::unlink(name_.c_str());
}

Status Draft::publish(Over over) {
  if (::fsync(fd()) < 0) return fail_errno(errno, "write {}", path_);
  const unsigned how = over == Over::kNothing ? RENAME_NOREPLACE : 0;
  if (::renameat2(AT_FDCWD, name_.c_str(), AT_FDCWD, path_.c_str(), how) == 0) {
    name_.clear();
    return {};
  }
  // A file system that lacks RENAME_NOREPLACE; the temporary name goes with this object.
  if (errno == EINVAL && over == Over::kNothing && ::link(name_.c_str(), path_.c_str()) == 0) return {};
  return fail_errno(errno, "write {}", path_);
}

}  // namespace mayfly::base
