// The virtio socket device (virtio 1.2, section 5.10), backed by unix stream sockets on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/device.h"

namespace mayfly::virtio::vsock {

struct Config {
  std::uint32_t guest_cid = 3;  // >= 3, not 0xffffffff
  std::string uds_path;         // where host programs connect; guest ports appear as <uds_path>_<port>
};

class Device : public VirtioDevice {
 public:
  // Binds and listens on uds_path (a clear error when it exists; removed again by the destructor). `loop`
  // outlives the device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop);
};

}  // namespace mayfly::virtio::vsock
