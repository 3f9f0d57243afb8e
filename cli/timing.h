// Where the milliseconds of a run went.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/frames.h"

namespace mayfly::cli {

// Named moments in the order in which they happened, CLOCK_MONOTONIC of the host.
class Timing {
 public:
  // `start_ns`: when mayfly began, the zero of all that is shown.
  explicit Timing(std::uint64_t start_ns) : start_ns_(start_ns) {}

  // A phase that the VMM tells of, under the VMM's name for it. Names that are not known are left out.
  void add_vmm_phase(std::string_view phase, std::uint64_t ns);
  // A frame of the guest that arrived now. Its clock readings are placed on the host's clock: a frame that is
  // sent at `now_ns` in the guest arrives a little later, so the smallest difference seen is the one to go
  // by. No reading, true or false, gets placed outside of the run.
  void add_guest_frame(const GuestFrame& frame, std::uint64_t arrival_ns);

  struct Phase {
    std::string name;
    double at_ms;     // since mayfly's start
    double delta_ms;  // since the phase before
  };
  [[nodiscard]] std::vector<Phase> phases() const;

  // One line a phase.
  [[nodiscard]] std::string as_table() const;
  // {"phases": [{"name", "ms", "delta_ms"}, …], "exit_status"} on one line.
  [[nodiscard]] std::string as_json(int exit_status) const;

 private:
  struct Moment {
    std::string name;
    std::uint64_t ns;         // on the clock of its side
    std::uint64_t latest_ns;  // it cannot have been later; host's clock
  };
  std::uint64_t start_ns_;
  std::vector<Moment> host_;
  std::vector<Moment> guest_;  // all later than those of the host, whichever is read first
  bool guest_seen_ = false;
  std::int64_t guest_offset_ns_ = 0;  // host minus guest
};

}  // namespace mayfly::cli
