// A guest and its command, from the start of the VMM to the end of both.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"
#include "cli/guest_network.h"
#include "cli/keeper.h"
#include "cli/listener.h"
#include "cli/options.h"
#include "cli/session.h"
#include "cli/virtual_machine.h"
#include "cli/vmm_place.h"
#include "cli/vmm_process.h"

namespace mayfly::cli {

// Lives on the loop's thread; its owner runs the loop.
class Machine {
 public:
  struct Observer {
    // A moment of the start: of the VMM by name, of the guest by the frame that says so.
    std::function<void(std::string_view phase, std::uint64_t ns)> on_phase = nullptr;
    std::function<void(const GuestFrame&)> on_frame = nullptr;
    // Something for people to read, that ends nothing by itself; one line.
    std::function<void(const std::string&)> on_message;
    std::function<void(base::agent::Stream, std::span<const std::byte>)> on_output = nullptr;
    std::function<void(std::string_view)> on_console = nullptr;
    // Once: with the status that the command ended with, or why there is none. The machine must not be
    // destroyed from within.
    std::function<void(base::Result<int>)> on_end;
  };
  struct Request {
    const RunOptions& options;  // outlives the machine
    const RunFiles& files;
    std::string folder;  // for its sockets
    StartRequest start;  // without arguments: the machine runs until it is asked to end
    StandardStreams streams;
    VmmProcess::Console console;
    bool api = false;  // the VMM serves its control socket, VmmPlace::socket_in(folder, "api")
    bool timing = false;
  };

  // Starts it. What is made outside of this process `keeper` knows. Errors are for people, and leave nothing.
  static base::Result<std::unique_ptr<Machine>> create(base::EventLoop& loop, Keeper& keeper, Request request,
                                                       Observer observer);
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine();

  // The guest's agent is there.
  [[nodiscard]] bool booted() const { return booted_; }
  // It is on its way to a proper end, and signals are of no use any more.
  [[nodiscard]] bool concluding() const { return concluding_.has_value(); }
  [[nodiscard]] Session& session() { return *session_; }
  [[nodiscard]] const VmmProcess& vmm() const { return *vmm_; }

  // From now on this is the status, whatever the command's own will be.
  void override_status(int status) { overriding_status_ = status; }
  // The command is over, or of no more interest: a guest that writes to its image does so to the end; then
  // the machine ends with this status.
  void conclude(int status);
  // The agent ends all processes, the guest's disks are written, the machine ends with this status; or with
  // an error when that takes longer than `patience`.
  void power_off(int status, std::chrono::nanoseconds patience);
  // Ends now.
  void finish(base::Result<int> result);

 private:
  Machine(base::EventLoop& loop, const RunOptions& options, Observer observer)
      : loop_(loop), options_(options), observer_(std::move(observer)) {}
  base::Status start(Keeper& keeper, Request request);
  base::Result<VmmProcess::Request> vmm_request(const Request& request, const VmmPlace& place) const;
  base::Status start_session(StandardStreams streams, const StartRequest& start);
  void on_frame(const GuestFrame& frame);
  void on_session_end(const SessionEnd& end);
  void on_vmm_end(const VmmEnd& end);
  void on_network_loss(const std::string& why);
  [[nodiscard]] base::Result<int> failure(const VmmEnd& end) const;
  [[nodiscard]] std::string console_tail() const {
    return options_.console ? std::string() : vmm_->console().text();
  }

  base::EventLoop& loop_;
  const RunOptions& options_;
  Observer observer_;
  std::unique_ptr<GuestNetwork> network_;
  std::unique_ptr<VmmProcess> vmm_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<base::Timer> boot_timer_;
  std::unique_ptr<base::Timer> patience_timer_;

  bool booted_ = false;
  bool output_lost_ = false;
  bool ended_ = false;
  std::optional<VmmEnd> vmm_end_;
  std::optional<int> concluding_;  // with this status
  std::optional<int> overriding_status_;
};

}  // namespace mayfly::cli
