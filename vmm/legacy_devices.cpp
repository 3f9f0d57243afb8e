#include "vmm/legacy_devices.h"

#include "vmm/x86_64/layout.h"

namespace mayfly::vmm {

base::Result<std::unique_ptr<LegacyDevices>> LegacyDevices::create(const VmConfig& config, Vm& vm,
                                                                   base::EventLoop& loop, Buses buses,
                                                                   std::function<void()> on_reset) {
  IrqLine keyboard_irq = TRY(IrqLine::create(vm, x86_64::kKeyboardGsi));
  IrqLine serial_irq = TRY(IrqLine::create(vm, x86_64::kSerialGsi));
  std::unique_ptr<LegacyDevices> devices(new LegacyDevices(std::move(keyboard_irq), std::move(serial_irq),
                                                           std::move(on_reset), config.on_guest_ready));
  const IrqLine& irq = devices->serial_irq_;
  devices->serial_ =
      TRY(Serial::create(loop, config.console.input, config.console.output, [&irq] { irq.pulse(); }));
  TRY(buses.port.add(kI8042Port, kI8042Size, "i8042", devices->keyboard_));
  TRY(buses.port.add(kSerialPort, Uart::kRegisters, "serial", *devices->serial_));
  if (config.boot_timer) {
    TRY(buses.mmio.add(x86_64::kBootTimer.value(), x86_64::kBootTimerSize, "boot timer",
                       devices->boot_timer_));
  }
  return devices;
}

}  // namespace mayfly::vmm
