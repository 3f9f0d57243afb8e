// Who clears away after a run when mayfly cannot.
#pragma once

#include <sys/types.h>

#include <string>
#include <utility>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

// A small process of its own that waits for mayfly's end, however it comes: then it kills what was started
// and is still there, puts the terminal back if mayfly left it raw, takes away the guest's network, and
// removes the folder. Of mayfly's descriptors it holds only the terminal, the list of networks and the lock
// of a machine's entry open, and it is in a session of its own.
class Keeper {
 public:
  struct Charge {
    std::string folder = {};  // empty: none
    int terminal = -1;        // what RawTerminal will be entered on
    int lock = -1;            // a descriptor that is to stay open for as long as it has work to do
  };
  // Forks: call it while there is one thread.
  static base::Result<Keeper> start(const Charge& charge);
  // Lets it do its work now, and waits for its end. What it did not get to is done here.
  ~Keeper();
  Keeper(Keeper&& other) noexcept
      : link_(std::move(other.link_)),
        pid_(std::exchange(other.pid_, -1)),
        registry_(std::move(other.registry_)),
        slot_(other.slot_) {}
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // Tells it of a process to kill.
  base::Status watch_over(int pidfd);
  // Tells it of the network to take away (tap_network.h): `registry` is what NetworkRegistry::fd() gives.
  // Once, before the network is made.
  base::Status watch_over_network(int registry, unsigned slot);

 private:
  Keeper(base::UniqueFd link, pid_t pid) : link_(std::move(link)), pid_(pid) {}
  base::UniqueFd link_;  // its end of file is mayfly's end
  pid_t pid_;
  base::UniqueFd registry_;  // of the network, if there is one
  unsigned slot_ = 0;
};

}  // namespace mayfly::cli
