// What the command line says about system call filters, done.
#pragma once

#include <optional>

#include "api/options.h"
#include "base/result.h"
#include "jailer/seccomp/install.h"

namespace mayfly::api {

class Confinement {
 public:
  // Before any other thread is there, and once the log is where it will be: says loudly where there will be
  // no filters. An error: those of --seccomp-filter are none.
  static base::Result<Confinement> create(const Options& options);

  // Puts the calling thread's filter on, if there is to be one.
  [[nodiscard]] base::Status confine(jailer::seccomp::Thread thread) const {
    return filters_ ? filters_->confine(thread) : base::Status{};
  }

 private:
  std::optional<jailer::seccomp::Filters> filters_;
};

}  // namespace mayfly::api
