#include "jailer/undo.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

namespace mayfly::jailer {

using base::Status;

namespace {

// Nothing can be done about what cannot be undone: that the jail failed is being said already.
void ignore(bool) {}

}  // namespace

Undo::~Undo() {
  while (!entries_.empty()) {
    const Entry& last = entries_.back();
    if (last.name.empty()) {
      constexpr std::string_view kMyself = "0";
      ignore(::write(last.fd.get(), kMyself.data(), kMyself.size()) < 0);
    } else {
      ignore(::unlinkat(last.fd.get(), last.name.c_str(), last.flags) < 0);
    }
    entries_.pop_back();
  }
}

Status Undo::made(int folder, const std::string& name, int flags) {
  base::UniqueFd fd(::fcntl(folder, F_DUPFD_CLOEXEC, 0));
  if (!fd.valid()) {
    const int code = errno;
    ignore(::unlinkat(folder, name.c_str(), flags) < 0);
    return base::fail_errno(code, "duplicate a file descriptor");
  }
  entries_.push_back({std::move(fd), name, flags});
  return {};
}

Status Undo::made_folder(int folder, const std::string& name) {
  return made(folder, name, AT_REMOVEDIR);
}

Status Undo::made_file(int folder, const std::string& name) {
  return made(folder, name, 0);
}

void Undo::left_cgroup(base::UniqueFd procs) {
  entries_.push_back({std::move(procs), {}, 0});
}

std::vector<int> Undo::folders() const {
  std::vector<int> fds;
  for (const Entry& entry : entries_) {
    if (!entry.name.empty()) fds.push_back(entry.fd.get());
  }
  return fds;
}

}  // namespace mayfly::jailer
