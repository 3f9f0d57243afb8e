#include "cli/machine.h"

#include <fcntl.h>

#include <utility>

#include "base/file.h"
#include "cli/run.h"
#include "cli/tap.h"
#include "cli/vmm_report.h"

namespace mayfly::cli {

using base::fail;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

using namespace std::chrono_literals;

// An agent that went away leaves a machine that is about to end, and whose end says more.
constexpr auto kLastWordsPatience = 5s;
constexpr auto kShutdownPatience = 60s;
// The VMM's id, of a machine that has no name.
constexpr const char* kForegroundId = "run";

}  // namespace

Result<std::unique_ptr<Machine>> Machine::create(base::EventLoop& loop, Keeper& keeper, Request request,
                                                 Observer observer) {
  std::unique_ptr<Machine> machine(new Machine(loop, request.options, std::move(observer)));
  TRY(machine->start(keeper, std::move(request)));
  return machine;
}

Machine::~Machine() = default;

Status Machine::start(Keeper& keeper, Request request) {
  const VmmPlace place = TRY(
      VmmPlace::make(request.files, request.folder, options_.name.empty() ? kForegroundId : options_.name));
  if (options_.network != NetworkMode::kNone) {
    network_ = TRY(GuestNetwork::create(loop_, options_, place, keeper,
                                        [this](const std::string& why) { on_network_loss(why); }));
  }
  listener_ =
      TRY(place.listen(loop_, fmt::format("{}_{}", kVsock, base::agent::kHostPort), [this](UniqueFd fd) {
        session_->add_stream(std::move(fd));
        if (!session_->wants_streams()) listener_.reset();
      }));
  VmmProcess::Request vmm = TRY(vmm_request(request, place));
  vmm_ = TRY(VmmProcess::spawn(loop_, std::move(vmm), std::move(request.console),
                               {.on_phase = observer_.on_phase,
                                .on_console = observer_.on_console,
                                .on_end = [this](const VmmEnd& end) { on_vmm_end(end); }}));
  TRY(keeper.watch_over(vmm_->pidfd()));
  TRY(start_session(std::move(request.streams), request.start));
  boot_timer_ = TRY(base::Timer::create(loop_, [this] {
    if (!booted_) finish(fail("{}", describe_boot_timeout(options_, console_tail())));
  }));
  boot_timer_->set(options_.boot_timeout);
  return {};
}

// In a jail the VMM has no path to what it needs, and gets it open.
Result<VmmProcess::Request> Machine::vmm_request(const Request& request, const VmmPlace& place) const {
  VmmProcess::Request vmm{.executable = request.files.vmm,
                          .configuration = {},
                          .jailer = place.jailer(),
                          .timing = request.timing,
                          .api_socket = request.api ? place.socket_inside(kApi) : "",
                          .id = options_.name};
  RunFiles files = request.files;
  std::optional<NetworkPlan> network;
  if (network_) network = network_->plan();
  const auto pass = [&](UniqueFd fd, std::string& name) {
    vmm.files.push_back({.fd = std::move(fd), .name = name});
    name = VmmProcess::path_of(vmm.files.size() - 1);
  };
  if (place.jailed()) {
    const int access = options_.root_mode == RootMode::kWritable ? O_RDWR : O_RDONLY;
    pass(TRY(base::open_file(files.kernel, O_RDONLY)), files.kernel);
    pass(TRY(base::open_file(files.rootfs, access)), files.rootfs);
    vmm.kvm = "/dev/kvm";
    pass(TRY(base::open_file(vmm.kvm, O_RDWR)), vmm.kvm);
    if (network && !network->tap.empty()) pass(TRY(open_tap(network->tap)), network->tap);
  }
  vmm.configuration =
      TRY(vmm_configuration(options_, files, place.socket_inside(kVsock), network ? &*network : nullptr));
  return vmm;
}

Status Machine::start_session(StandardStreams streams, const StartRequest& start) {
  session_ = TRY(Session::create(loop_, std::move(streams), start,
                                 {.on_frame = [this](const GuestFrame& frame) { on_frame(frame); },
                                  .on_output = observer_.on_output,
                                  .on_local_error =
                                      [this](const std::string& message) {
                                        output_lost_ = true;
                                        observer_.on_message(message);
                                      },
                                  .on_end = [this](const SessionEnd& end) { on_session_end(end); }}));
  return {};
}

void Machine::on_frame(const GuestFrame& frame) {
  if (std::holds_alternative<HelloFrame>(frame)) {
    booted_ = true;
    boot_timer_->cancel();
  }
  if (observer_.on_frame) observer_.on_frame(frame);
}

void Machine::on_session_end(const SessionEnd& end) {
  switch (end.kind) {
    case SessionEnd::Kind::kExited:
      conclude(output_lost_ && end.exit_status == 0 ? kExitMayflyFailed : end.exit_status);
      break;
    case SessionEnd::Kind::kFailed:
      observer_.on_message(end.message);
      conclude(end.exit_status);
      break;
    case SessionEnd::Kind::kGone:
      if (concluding_) break;  // as it was asked to
      if (vmm_end_) {
        finish(failure(*vmm_end_));
        break;
      }
      if (auto timer =
              base::Timer::create(loop_, [this, message = end.message] { finish(fail("{}", message)); })) {
        patience_timer_ = std::move(*timer);
        patience_timer_->set(kLastWordsPatience);
        break;
      }
      [[fallthrough]];
    case SessionEnd::Kind::kBroken:
      finish(fail("{}", end.message));
      break;
  }
}

void Machine::on_vmm_end(const VmmEnd& end) {
  vmm_end_ = end;
  if (concluding_) {
    if (end.signal == 0 && end.exit_status == 0) return finish(*concluding_);
    return finish(failure(end));
  }
  // The agent's going was noticed before, and only the reason was waited for.
  if (patience_timer_) return finish(failure(end));
  session_->guest_ended();
}

Result<int> Machine::failure(const VmmEnd& end) const {
  // Without a command, a guest that reset itself did nothing too early.
  if (options_.command.empty() && end.signal == 0 && end.exit_status == 0) return 0;
  return fail("{}", describe_end(end, options_, booted_, vmm_->errors(), console_tail()));
}

// Before the guest is up it is a run that cannot be as it was asked for; after that the guest sees its link
// go down.
void Machine::on_network_loss(const std::string& why) {
  if (!booted_ && !vmm_end_) return finish(fail("--net: {}", why));
  if (!concluding_ && !vmm_end_) observer_.on_message("the guest has no network any more: " + why);
}

void Machine::conclude(int status) {
  if (options_.root_mode != RootMode::kWritable) return finish(overriding_status_.value_or(status));
  power_off(status, kShutdownPatience);
}

void Machine::power_off(int status, std::chrono::nanoseconds patience) {
  if (concluding_) return;
  concluding_ = overriding_status_.value_or(status);
  if (vmm_end_) return on_vmm_end(*vmm_end_);
  session_->request_shutdown();
  auto timer = base::Timer::create(loop_, [this, status = *concluding_] {
    // In the other modes there was nothing to write, and a kill does as well.
    if (options_.root_mode != RootMode::kWritable) return finish(status);
    finish(fail("the guest did not finish writing to its root file system: check the image with e2fsck"));
  });
  if (!timer) return finish(std::unexpected(timer.error()));
  patience_timer_ = std::move(*timer);
  patience_timer_->set(patience);
}

void Machine::finish(Result<int> result) {
  if (!std::exchange(ended_, true)) observer_.on_end(std::move(result));
}

}  // namespace mayfly::cli
