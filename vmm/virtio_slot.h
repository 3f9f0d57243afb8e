// A place on the MMIO bus with a virtio device in it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/event_loop.h"
#include "base/guest_memory.h"
#include "virtio/mmio_transport.h"
#include "vmm/bus.h"
#include "vmm/irq_line.h"
#include "vmm/kvm.h"
#include "vmm/loop_calls.h"

namespace mayfly::vmm {

// The device, its transport, its interrupt line and its doorbells. A doorbell is an eventfd that KVM rings
// for a write to QueueNotify and that the event loop answers, so no vCPU leaves the kernel for it.
class VirtioSlot final : public BusDevice {
 public:
  // `index` < x86_64::kMostVirtioDevices. `vm`, `memory`, `loop` and `calls` outlive the
  // slot.
  static base::Result<std::unique_ptr<VirtioSlot>> create(std::uint32_t index,
                                                          std::unique_ptr<virtio::VirtioDevice> device,
                                                          Vm& vm, const base::GuestMemory& memory,
                                                          base::EventLoop& loop, LoopCalls& calls);
  // On the loop's thread, when no vCPU runs.
  ~VirtioSlot() override;

  void read(std::uint64_t offset, std::span<std::byte> out) override { transport_.read(offset, out); }
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

  // From hold() to release() the device does nothing: neither doorbells nor what it watches on the host are
  // answered, and nothing that was begun before is left. On the loop's thread.
  void hold();
  base::Status release();

  // What device and transport counted. On the loop's thread.
  [[nodiscard]] std::vector<base::MetricGroup> metric_groups() { return transport_.metric_groups(); }

 private:
  VirtioSlot(std::unique_ptr<virtio::VirtioDevice> device, IrqLine irq, const base::GuestMemory& memory,
             base::EventLoop& loop, LoopCalls& calls);
  base::Status add_doorbells(std::uint32_t index, Vm& vm);
  base::Status watch_doorbells();
  void unwatch_doorbells();

  base::EventLoop& loop_;
  LoopCalls& calls_;
  IrqLine irq_;
  std::unique_ptr<virtio::VirtioDevice> device_;
  virtio::MmioTransport transport_;
  std::vector<base::UniqueFd> doorbells_;  // by queue index
};

}  // namespace mayfly::vmm
