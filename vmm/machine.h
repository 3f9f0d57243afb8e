// One virtual machine, from its parts to its end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/metric.h"
#include "base/result.h"
#include "vmm/config.h"

namespace mayfly::vmm {

// How a machine ended. The value is the exit status of mayfly-vmm.
enum class ExitReason : std::uint8_t {
  kReset = 0,  // the guest asked for a reset: a clean end
  kGuestPanic =
      10,  // the guest kernel panicked: a reset with the BIOS warm-reset flag set (reboot=k,panic_warm)
  kTripleFault = 11,  // KVM_EXIT_SHUTDOWN
  kKvmError = 12,     // KVM_RUN failed, or an exit that cannot be handled
};

struct Exit {
  ExitReason reason;
  std::string detail;  // one line for the log
};

enum class State : std::uint8_t { kNotStarted, kRunning, kPaused, kEnded };

// Created and used on the event loop's thread, except where noted.
class Machine {
 public:
  // Builds everything up to the first instruction: VM, memory, devices, kernel, vCPUs (threads parked).
  // `on_exit` runs on the loop's thread, once. `loop` outlives the machine.
  static base::Result<std::unique_ptr<Machine>> create(const VmConfig& config, base::EventLoop& loop,
                                                       std::function<void(const Exit&)> on_exit);
  virtual ~Machine() = default;  // stops and joins the vCPU threads

  virtual base::Status start() = 0;
  // After it returns no vCPU executes and no device touches guest memory, until resume().
  virtual base::Status pause() = 0;
  virtual base::Status resume() = 0;
  // Presses the keys on the i8042's keyboard; what follows is the guest's affair.
  virtual base::Status send_ctrl_alt_del() = 0;
  [[nodiscard]] virtual State state() const = 0;
  // block::Device::update() has the rules; absent: stays as it is. Running or paused.
  virtual base::Status update_drive(const std::string& id, const std::optional<std::string>& path,
                                    const std::optional<virtio::RateLimiterConfig>& limiter) = 0;
  // RateLimiter::update() has the rules. Running or paused.
  virtual base::Status update_network_interface(const std::string& id, const virtio::RateLimiterConfig& rx,
                                                const virtio::RateLimiterConfig& tx) = 0;
  // What the devices counted, in the order of their addresses.
  [[nodiscard]] virtual std::vector<base::MetricGroup> metric_groups() = 0;
};

}  // namespace mayfly::vmm
