// How long a guest takes to boot: a page whose first byte the guest writes 123 to when it is there.
#pragma once

#include <cstdint>
#include <span>

#include "vmm/bus.h"

namespace mayfly::vmm {

class BootTimer final : public BusDevice {
 public:
  // The machine starts now. Before any vCPU runs.
  void start();

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  // 123 to offset 0 logs "Guest-boot-time = N us N ms, N CPU us N CPU ms", wall and process CPU time since
  // start().
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

 private:
  std::uint64_t start_wall_ns_ = 0;
  std::uint64_t start_cpu_ns_ = 0;
  base::log::Limiter log_limit_;
};

}  // namespace mayfly::vmm
