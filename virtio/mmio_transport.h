// The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/guest_memory.h"
#include "virtio/device.h"

namespace mayfly::virtio {

inline constexpr std::uint64_t kMmioSize = 0x1000;  // one page a device
inline constexpr std::uint32_t kMmioQueueNotify =
    0x50;  // where an ioeventfd (4 bytes, datamatch = index) goes

// The register block of one device. read()/write() may be called from any vCPU thread: both take the device's
// mutex. queue_notified() may be called from any thread as well, and is what an ioeventfd's handler calls.
class MmioTransport final : public Interrupt {
 public:
  // `device` and `memory` outlive the transport. `raise_irq` triggers the device's interrupt line (edge); it
  // is called with the device's mutex held, from any thread.
  MmioTransport(VirtioDevice& device, const base::GuestMemory& memory, std::function<void()> raise_irq);
  ~MmioTransport() override;

  // Offsets within the page. Accesses that 4.2.2.2 does not allow (not 32 bits wide, not aligned, unknown
  // register) read as all ones or zero as the specification has it, are not written, and are counted.
  void read(std::uint64_t offset, std::span<std::byte> out);
  void write(std::uint64_t offset, std::span<const std::byte> in);
  void queue_notified(std::uint16_t index);

  [[nodiscard]] VirtioDevice& device() { return device_; }

  // Interrupt; the device's mutex is held.
  void queue_used() override;
  void config_changed() override;
  void device_error() override;

 private:
  VirtioDevice& device_;
  const base::GuestMemory& memory_;
  std::function<void()> raise_irq_;
};

}  // namespace mayfly::virtio
