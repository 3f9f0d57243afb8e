// The kernel's command line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/guest_memory.h"
#include "base/result.h"

namespace mayfly::vmm::x86_64 {

// Used when the configuration has no boot_args; for kernels other than ours, too.
// reboot=k makes the kernel end by way of the keyboard controller; panic_warm is how a panic is told from a
// plain reset. The rest keeps the kernel from looking for what is not there. kernels/README.md explains each
// word.
inline constexpr std::string_view kDefaultBootArgs =
    "reboot=k,panic_warm panic=-1 tsc=reliable swiotlb=noforce random.trust_cpu=on nomodule pci=off "
    "8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd";

// Words for the kernel, then perhaps " -- " and words for init. Printable ASCII, and short enough for the
// kernel (kCommandLineSize with the NUL).
class CommandLine {
 public:
  static base::Result<CommandLine> create(std::string_view boot_args);

  // Adds words for the kernel, after those it has and before " -- ". When it fails, nothing was added.
  base::Status append(std::string_view words);

  // "virtio_mmio.device=4K@ADDRESS:GSI", the way a kernel without ACPI is told of a device.
  base::Status append_virtio_mmio_device(base::GuestAddress address, std::uint32_t gsi);

  // Without the NUL.
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  explicit CommandLine(std::string text) : text_(std::move(text)) {}
  std::string text_;
};

}  // namespace mayfly::vmm::x86_64
