// The virtio block device (virtio 1.2, section 5.2).
#pragma once

#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "virtio/device.h"

namespace mayfly::virtio::block {

enum class CacheType { kUnsafe, kWriteback };  // whether the guest is offered FLUSH

struct Config {
  std::string id;    // drive_id; what GET_ID answers, cut to 20 bytes
  std::string path;  // a regular file or a block device, a multiple of 512 bytes long
  bool read_only = false;
  CacheType cache_type = CacheType::kUnsafe;
};

class Device : public VirtioDevice {
 public:
  // Opens and checks the file. `loop` outlives the device.
  static base::Result<std::unique_ptr<Device>> create(const Config& config, base::EventLoop& loop);

  // A new backing file, or the same one looked at again when `path` is empty: updates the capacity and tells
  // the driver. Under mutex().
  virtual base::Status update(const std::string& path) = 0;
};

}  // namespace mayfly::virtio::block
