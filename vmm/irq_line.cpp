#include "vmm/irq_line.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>

namespace mayfly::vmm {

base::Result<IrqLine> IrqLine::create(Vm& vm, std::uint32_t gsi) {
  base::UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd.valid()) return base::fail_errno(errno, "create an eventfd for interrupt {}", gsi);
  TRY(vm.assign_irqfd(gsi, eventfd.get()));
  return IrqLine(std::move(eventfd));
}

void IrqLine::pulse() const {
  const std::uint64_t one = 1;
  // Cannot fail: KVM takes the count off at once.
  [[maybe_unused]] const ssize_t n = ::write(eventfd_.get(), &one, sizeof(one));
}

}  // namespace mayfly::vmm
