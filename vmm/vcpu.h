// One vCPU and the thread that runs it.
#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
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

  // Called on the vCPU's thread; each may be null.
  struct Hooks {
    std::function<base::Status()> confine = {};  // first of all; an error, and the thread does nothing else
    std::function<void()> on_parked = {};        // each time that it has parked
  };

  // `buses` and what the callbacks refer to outlive the vCPU.
  static base::Result<std::unique_ptr<Vcpu>> create(std::uint32_t index, VcpuFd fd, Buses buses, OnEnd on_end,
                                                    Hooks hooks);
  static base::Result<std::unique_ptr<Vcpu>> create(std::uint32_t index, VcpuFd fd, Buses buses,
                                                    OnEnd on_end) {
    return create(index, std::move(fd), buses, std::move(on_end), {});
  }
  // Stops and joins the thread.
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  // What came of Hooks::confine. Once, before resume().
  base::Status wait_confined();
  void resume();
  // Asks the vCPU to leave the guest; wait_parked() until it has. Several vCPUs are asked before the first is
  // waited for.
  void request_pause();
  void wait_parked();
  [[nodiscard]] bool parked();
  // Never enters the guest again. Any thread, the vCPU's own as well.
  void request_stop();
  // The same without the signal: once it leaves the guest by itself. For a vCPU's thread, which may send
  // none.
  void request_stop_at_exit();

  // Only while parked.
  [[nodiscard]] VcpuFd& fd() { return fd_; }

 private:
  enum class Command : std::uint8_t { kPark, kRun, kStop };

  Vcpu(std::uint32_t index, VcpuFd fd, Buses buses, OnEnd on_end, Hooks hooks)
      : index_(index),
        fd_(std::move(fd)),
        buses_(buses),
        on_end_(std::move(on_end)),
        hooks_(std::move(hooks)) {}
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
  const Hooks hooks_;
  const pid_t process_ = ::getpid();
  std::atomic<pid_t> thread_id_{0};  // 0: the thread has not looked at a command yet

  std::mutex mutex_;  // guards parked_, confined_, and changes of command_
  std::condition_variable changed_;
  std::atomic<Command> command_{Command::kPark};
  bool parked_ = true;
  std::optional<base::Status> confined_;
  bool ended_ = false;    // on the vCPU's thread
  bool entered_ = false;  // on the vCPU's thread
  std::jthread thread_;
};

}  // namespace mayfly::vmm
