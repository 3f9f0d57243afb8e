// Files and memory to load kernels from and to.
#pragma once

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <string>
#include <utility>

#include "base/file.h"
#include "base/unique_fd.h"
#include "tests/unit/x86_64/kernel_images.h"
#include "vmm/x86_64/kernel_loader.h"
#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64::test {

inline GuestMemory make_memory(std::uint64_t size) {
  auto ranges = memory_ranges(size);
  REQUIRE(ranges.has_value());
  auto memory = GuestMemory::create(*ranges);
  REQUIRE(memory.has_value());
  return std::move(*memory);
}

inline base::UniqueFd make_file(std::span<const std::byte> content) {
  base::UniqueFd fd(::memfd_create("image", MFD_CLOEXEC));
  REQUIRE(fd.valid());
  REQUIRE(base::write_all(fd.get(), content).has_value());
  return fd;
}

inline base::Result<LoadedKernel> load_bytes(GuestMemory& memory, std::span<const std::byte> content) {
  const base::UniqueFd fd = make_file(content);
  return load_kernel(memory, fd.get(), "test.img");
}

// Why the image is refused by a machine of 64 MiB; empty when it is not.
inline std::string refusal(std::span<const std::byte> content) {
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, content);
  return kernel ? "" : kernel.error().message;
}

}  // namespace mayfly::vmm::x86_64::test
