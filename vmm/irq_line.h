// One interrupt line into the guest.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/unique_fd.h"
#include "vmm/kvm.h"

namespace mayfly::vmm {

// An eventfd that KVM turns into edges on the line. pulse() may be called from any thread.
class IrqLine {
 public:
  static base::Result<IrqLine> create(Vm& vm, std::uint32_t gsi);
  void pulse() const;

 private:
  explicit IrqLine(base::UniqueFd eventfd) : eventfd_(std::move(eventfd)) {}
  base::UniqueFd eventfd_;
};

}  // namespace mayfly::vmm
