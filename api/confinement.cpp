#include "api/confinement.h"

#include "base/log.h"

namespace mayfly::api {

using jailer::seccomp::Filters;

base::Result<Confinement> Confinement::create(const Options& options) {
  Confinement confinement;
  if (options.no_seccomp) {
    base::log::warning(
        "NO SYSTEM CALL FILTER is on, as --no-seccomp says: a guest that takes over this process may do "
        "whatever its user may; only for finding errors");
    return confinement;
  }
  if (!options.seccomp_filter.empty()) {
    auto filters = Filters::load(options.seccomp_filter);
    if (!filters) return fail_because(std::move(filters).error(), "--seccomp-filter");
    confinement.filters_ = std::move(*filters);
  } else if (jailer::seccomp::have_embedded()) {
    confinement.filters_ = TRY(Filters::embedded());
  } else {
    base::log::warning("NO SYSTEM CALL FILTER is on: this build, with a sanitizer, has none");
    return confinement;
  }
  TRY(confinement.filters_->prepare());
  return confinement;
}

}  // namespace mayfly::api
