// System call filters in mayfly-vmm: which there are, and putting them on.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "jailer/seccomp/filter_file.h"

namespace mayfly::jailer::seccomp {

// The exit status after a call that no filter allows.
inline constexpr int kExitForbiddenCall = 13;

// Whether this build has filters of its own. Those with a sanitizer have none: it makes calls of its own.
bool have_embedded();

class Filters {
 public:
  // Those that were built in from *.policy. An error: have_embedded().
  static base::Result<Filters> embedded();
  // Those of a file of mayfly-filter's. Each error names it.
  static base::Result<Filters> load(const std::string& path);

  // Once, before any other thread is there: forbids the process new privileges, without which the kernel
  // takes no filter, and sets the handler that names a forbidden call.
  [[nodiscard]] base::Status prepare() const;
  // The calling thread's from now on, and that of all threads that it makes; more can only be taken away.
  [[nodiscard]] base::Status confine(Thread thread) const;

 private:
  explicit Filters(Programs programs) : programs_(std::move(programs)) {}
  Programs programs_;
};

// "openat", or "?" for a number that is no system call.
std::string_view name_of_call(long number);

}  // namespace mayfly::jailer::seccomp
