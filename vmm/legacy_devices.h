// What a PC needs besides virtio to boot and end: serial port, keyboard controller, boot timer.
#pragma once

#include <functional>
#include <memory>

#include "base/event_loop.h"
#include "base/result.h"
#include "vmm/boot_timer.h"
#include "vmm/config.h"
#include "vmm/i8042.h"
#include "vmm/irq_line.h"
#include "vmm/serial.h"
#include "vmm/vm_exit.h"

namespace mayfly::vmm {

class LegacyDevices {
 public:
  // Puts the devices on the buses. `on_reset` is called on a vCPU's thread when the guest asks for a reset.
  // `vm` and `loop` outlive the object, and the object outlives the use of the buses.
  static base::Result<std::unique_ptr<LegacyDevices>> create(const VmConfig& config, Vm& vm,
                                                             base::EventLoop& loop, Buses buses,
                                                             std::function<void()> on_reset);

  Serial& serial() { return *serial_; }
  I8042& keyboard() { return keyboard_; }
  BootTimer& boot_timer() { return boot_timer_; }

 private:
  LegacyDevices(IrqLine keyboard_irq, IrqLine serial_irq, std::function<void()> on_reset,
                std::function<void()> on_guest_ready)
      : keyboard_irq_(std::move(keyboard_irq)),
        serial_irq_(std::move(serial_irq)),
        keyboard_([this] { keyboard_irq_.pulse(); }, std::move(on_reset)),
        boot_timer_(std::move(on_guest_ready)) {}

  IrqLine keyboard_irq_;
  IrqLine serial_irq_;
  I8042 keyboard_;
  BootTimer boot_timer_;
  std::unique_ptr<Serial> serial_;
};

}  // namespace mayfly::vmm
