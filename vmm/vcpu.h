// One vCPU and the thread that runs it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/result.h"
#include "vmm/kvm.h"
#include "vmm/vm_exit.h"

namespace mayfly::vmm {

// Parked from its creation until resume(). All functions but the callback are for one controlling thread.
//
// While parked, everything the guest started is finished: a read from a device that made the vCPU leave the
// guest has its value in the register, so the state that KVM reports is complete.
class Vcpu {
 public:
  // Called once, on the vCPU's thread, when the guest did something that ends the machine.
  using OnEnd = std::function<void(Exit)>;

  // `buses` and what `on_end` refers to outlive the vCPU.
  static base::Result<std::unique_ptr<Vcpu>> create(std::uint32_t index, VcpuFd fd, Buses buses,
                                                    OnEnd on_end);
  // Stops and joins the thread.
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  void resume();
  // Asks the vCPU to leave the guest; wait_parked() until it has. Several vCPUs are asked before the first is
  // waited for.
  void request_pause();
  void wait_parked();
  // Never enters the guest again. Any thread, the vCPU's own as well.
  void request_stop();

  // Only while parked.
  [[nodiscard]] VcpuFd& fd() { return fd_; }

 private:
  enum class Command : std::uint8_t { kPark, kRun, kStop };

  Vcpu(std::uint32_t index, VcpuFd fd, Buses buses, OnEnd on_end)
      : index_(index), fd_(std::move(fd)), buses_(buses), on_end_(std::move(on_end)) {}
  base::Status start_thread();
  void thread_main();
  bool wait_for_run();
  void run();
  void enter_once();
  void finish_pending_io();
  void end(Exit exit);
  void command(Command command);
  void kick();

  const std::uint32_t index_;
  VcpuFd fd_;
  const Buses buses_;
  const OnEnd on_end_;

  std::mutex mutex_;  // guards parked_, and changes of command_
  std::condition_variable changed_;
  std::atomic<Command> command_{Command::kPark};
  bool parked_ = true;
  bool ended_ = false;    // on the vCPU's thread
  bool entered_ = false;  // on the vCPU's thread
  std::jthread thread_;
};

}  // namespace mayfly::vmm
