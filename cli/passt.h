// passt as a child process: a guest's network without root.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/ipv4.h"
#include "cli/publish.h"
#include "cli/tail.h"

namespace mayfly::cli {

// As large as passt takes them: without offloads, large frames are what makes it fast.
inline constexpr std::uint16_t kPasstMtu = 65520;

struct PasstPlan {
  Ipv4Network guest;
  Ipv4 gateway;
  // What the guest asks for names, which is then the host's own resolver; for one that the guest cannot
  // reach.
  std::optional<Ipv4> nameserver;
  std::vector<Publish> publishes;
};

// Its command line, for a guest at descriptor `fd`: no configuration protocols, because mayfly-init is told,
// and no way to the host's loopback services.
std::vector<std::string> passt_words(const PasstPlan& plan, int fd);

// Ends when the guest's socket is closed, and is killed with this object. Lives on the loop's thread.
class Passt {
 public:
  // `socket`: connected to the VMM; made a blocking one. `on_end`: once, from the loop, when it ended: a
  // sentence on how.
  static base::Result<std::unique_ptr<Passt>> spawn(base::EventLoop& loop, const PasstPlan& plan,
                                                    base::UniqueFd socket,
                                                    std::function<void(std::string)> on_end);
  // Kills and reaps it.
  ~Passt();
  Passt(const Passt&) = delete;
  Passt& operator=(const Passt&) = delete;

  [[nodiscard]] int pidfd() const { return pidfd_.get(); }

 private:
  Passt(base::EventLoop& loop, std::function<void(std::string)> on_end)
      : loop_(loop), on_end_(std::move(on_end)) {}
  void read_errors();
  void reap();

  base::EventLoop& loop_;
  std::function<void(std::string)> on_end_;
  pid_t pid_ = -1;  // until reaped
  base::UniqueFd pidfd_;
  base::UniqueFd errors_;
  Tail tail_{4U << 10U};
};

// What passt gave as a reason, out of all that it prints: one line.
std::string passt_reason(const std::string& printed);

}  // namespace mayfly::cli
