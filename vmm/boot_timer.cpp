#include "vmm/boot_timer.h"

#include <algorithm>
#include <ctime>

#include "base/timeline.h"

namespace mayfly::vmm {

namespace {

constexpr std::byte kBooted{123};

std::uint64_t cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

void BootTimer::start() {
  start_wall_ns_ = base::timeline::now_ns();
  start_cpu_ns_ = cpu_ns();
}

void BootTimer::read(std::uint64_t /*offset*/, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
}

void BootTimer::write(std::uint64_t offset, std::span<const std::byte> in) {
  if (offset != 0 || in.empty() || in[0] != kBooted) return;
  if (!ready_.exchange(true) && on_ready_) on_ready_();
  if (!log_limit_.allow()) return;
  base::timeline::mark("guest_init");
  const std::uint64_t wall_us = (base::timeline::now_ns() - start_wall_ns_) / 1000;
  const std::uint64_t cpu_us = (cpu_ns() - start_cpu_ns_) / 1000;
  base::log::info("Guest-boot-time = {} us {} ms, {} CPU us {} CPU ms", wall_us, wall_us / 1000, cpu_us,
                  cpu_us / 1000);
}

}  // namespace mayfly::vmm
