#include "vmm/virtio_slot.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

#include "vmm/x86_64/layout.h"

namespace mayfly::vmm {

base::Result<std::unique_ptr<VirtioSlot>> VirtioSlot::create(std::uint32_t index,
                                                             std::unique_ptr<virtio::VirtioDevice> device,
                                                             Vm& vm, const base::GuestMemory& memory,
                                                             base::EventLoop& loop, LoopCalls& calls) {
  IrqLine irq = TRY(IrqLine::create(vm, x86_64::virtio_mmio_gsi(index)));
  std::unique_ptr<VirtioSlot> slot(new VirtioSlot(std::move(device), std::move(irq), memory, loop, calls));
  TRY(slot->add_doorbells(index, vm));
  TRY(slot->watch_doorbells());
  return slot;
}

VirtioSlot::VirtioSlot(std::unique_ptr<virtio::VirtioDevice> device, IrqLine irq,
                       const base::GuestMemory& memory, base::EventLoop& loop, LoopCalls& calls)
    : loop_(loop),
      calls_(calls),
      irq_(std::move(irq)),
      device_(std::move(device)),
      transport_(*device_, memory, [this] { irq_.pulse(); }) {}

VirtioSlot::~VirtioSlot() {
  unwatch_doorbells();
  loop_.release(&device_->mutex());
}

void VirtioSlot::write(std::uint64_t offset, std::span<const std::byte> in) {
  // A device that is started, reset or served uses files, sockets and timers.
  if (!virtio::MmioTransport::reaches_device(offset, in)) return transport_.write(offset, in);
  calls_.run([&] { transport_.write(offset, in); });
}

base::Status VirtioSlot::add_doorbells(std::uint32_t index, Vm& vm) {
  const base::GuestAddress notify =
      x86_64::virtio_mmio_address(index).unchecked_add(virtio::kMmioQueueNotify);
  for (std::size_t queue = 0; queue < device_->queue_sizes().size(); ++queue) {
    base::UniqueFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!doorbell.valid()) return base::fail_errno(errno, "create an eventfd for a virtio queue");
    TRY(vm.assign_ioeventfd(notify, sizeof(std::uint32_t), queue, doorbell.get()));
    doorbells_.push_back(std::move(doorbell));
  }
  return {};
}

base::Status VirtioSlot::watch_doorbells() {
  for (std::size_t queue = 0; queue < doorbells_.size(); ++queue) {
    const int fd = doorbells_[queue].get();
    // No mutex here: the transport takes the device's own.
    TRY(loop_.add(fd, EPOLLIN, [this, fd, queue](std::uint32_t) {
      std::uint64_t rings = 0;
      [[maybe_unused]] const ssize_t n = ::read(fd, &rings, sizeof(rings));
      transport_.queue_notified(static_cast<std::uint16_t>(queue));
    }));
  }
  return {};
}

void VirtioSlot::unwatch_doorbells() {
  for (const base::UniqueFd& doorbell : doorbells_) loop_.remove(doorbell.get());
}

void VirtioSlot::hold() {
  unwatch_doorbells();
  loop_.hold(&device_->mutex());
  // No more is begun; what was begun is waited for.
  const std::lock_guard lock(device_->mutex());
  device_->quiesce();
}

base::Status VirtioSlot::release() {
  loop_.release(&device_->mutex());
  return watch_doorbells();
}

}  // namespace mayfly::vmm
