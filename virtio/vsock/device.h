// The virtio socket device (virtio 1.2, section 5.10), backed by unix stream sockets on the host.
//
// Guest to host: a connection to host port P reaches the listener at <uds_path>_P. Host to guest: a program
// connects to uds_path, sends "CONNECT <port>\n", reads "OK <host port>\n", and from then on bytes flow. A
// connection that cannot be had is closed without an answer.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/device.h"
#include "virtio/vsock/state.h"

namespace mayfly::virtio::vsock {

struct Config {
  std::uint32_t guest_cid = 3;  // >= 3, not 0xffffffff
  std::string uds_path;         // where host programs connect; guest ports appear as <uds_path>_<port>
};

// The defaults are what a machine uses; tests use shorter ones.
struct Limits {
  // Connections at a time, in any state, one file descriptor each. Further guests' requests are answered with
  // RST, further host programs wait in the listener's backlog. Lowered by create() to what RLIMIT_NOFILE
  // leaves after kReservedFds for the rest of the process.
  std::size_t connections = 1023;
  std::chrono::milliseconds connect_line{30'000};  // for a host program to finish its line
  std::chrono::milliseconds guest_answer{10'000};  // for the guest to answer REQUEST
  std::chrono::milliseconds guest_reset{8'000};    // for the guest to answer the last SHUTDOWN with RST
};
inline constexpr std::size_t kReservedFds = 256;

class Device : public VirtioDevice {
 public:
  // Binds and listens on uds_path (a clear error when it exists; removed again by the destructor). `loop`
  // outlives the device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop) {
    return create(config, loop, Limits{});
  }
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop,
                                                      const Limits& limits);

  // Under mutex().
  [[nodiscard]] virtual State save() const = 0;
  // Goes on counting from a snapshot's counters. Only before activate().
  virtual void restore(const State& state) = 0;
  // Connections now, in any state.
  [[nodiscard]] virtual std::size_t connection_count() const = 0;
};

}  // namespace mayfly::virtio::vsock
