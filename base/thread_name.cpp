#include "base/thread_name.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>

namespace mayfly::base {

namespace {

using Name = std::array<char, 16>;  // PR_SET_NAME, with the NUL

thread_local Name this_thread{};

}  // namespace

void set_thread_name(std::string_view name) {
  Name text{};
  std::ranges::copy(name.substr(0, text.size() - 1), text.begin());
  ::prctl(PR_SET_NAME, text.data());
  this_thread = text;
}

std::string_view thread_name() {
  if (this_thread[0] == '\0') ::prctl(PR_GET_NAME, this_thread.data());
  return this_thread.data();
}

}  // namespace mayfly::base
