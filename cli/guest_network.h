// --net: what stands behind a guest's network interface during a run.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "cli/keeper.h"
#include "cli/listener.h"
#include "cli/options.h"
#include "cli/passt.h"
#include "cli/relay.h"
#include "cli/virtual_machine.h"
#include "cli/vmm_place.h"

namespace mayfly::cli {

// Lives on the loop's thread.
class GuestNetwork {
 public:
  // By a tap as root, or by passt, as the options have it, for a VMM at `place`. `on_loss`: the guest's
  // network is gone, why. Errors name the remedy. What is made outside of this process the keeper knows.
  static base::Result<std::unique_ptr<GuestNetwork>> create(base::EventLoop& loop, const RunOptions& options,
                                                            const VmmPlace& place, Keeper& keeper,
                                                            std::function<void(std::string)> on_loss);

  // What the VMM and the guest are told.
  [[nodiscard]] const NetworkPlan& plan() const { return plan_; }

 private:
  GuestNetwork(base::EventLoop& loop, Keeper& keeper, std::function<void(std::string)> on_loss)
      : loop_(loop), keeper_(keeper), on_loss_(std::move(on_loss)) {}
  base::Status start_tap(const RunOptions& options);
  base::Status start_passt(const RunOptions& options, const VmmPlace& place);
  base::Status relay_names();
  void connected(base::UniqueFd socket);

  base::EventLoop& loop_;
  Keeper& keeper_;
  std::function<void(std::string)> on_loss_;
  NetworkPlan plan_;
  std::vector<std::unique_ptr<Relay>> relays_;
  PasstPlan passt_plan_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Passt> passt_;
};

}  // namespace mayfly::cli
