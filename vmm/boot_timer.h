// How long a guest takes to boot: a page whose first byte the guest writes 123 to when it is there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "vmm/bus.h"

namespace mayfly::vmm {

class BootTimer final : public BusDevice {
 public:
  // `on_ready`: called at the guest's first 123, on its vCPU's thread; may be empty.
  explicit BootTimer(std::function<void()> on_ready) : on_ready_(std::move(on_ready)) {}
  // The machine starts now. Before any vCPU runs.
  void start();

  void read(std::uint64_t offset, std::span<std::byte> out) override;
  // 123 to offset 0 logs "Guest-boot-time = N us N ms, N CPU us N CPU ms", wall and process CPU time since
  // start().
  void write(std::uint64_t offset, std::span<const std::byte> in) override;

 private:
  std::uint64_t start_wall_ns_ = 0;
  std::uint64_t start_cpu_ns_ = 0;
  std::function<void()> on_ready_;
  std::atomic<bool> ready_{false};
  base::log::Limiter log_limit_;
};

}  // namespace mayfly::vmm
