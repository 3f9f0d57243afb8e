#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {

using namespace test;
using Catch::Contains;

namespace {

base::Result<Initrd> load_initrd_bytes(GuestMemory& memory, std::span<const std::byte> content,
                                       const LoadedKernel& kernel) {
  const base::UniqueFd fd = make_file(content);
  return load_initrd(memory, fd.get(), "test.cpio", kernel);
}

const LoadedKernel kKernel{.entry = GuestAddress(0x1000000),
                           .protocol = BootProtocol::kLinux64,
                           .end = GuestAddress(0x1800000),
                           .is_linux = true,
                           .setup_header = {}};

}  // namespace

TEST_CASE("an initrd lies page-aligned at the top of low memory") {
  GuestMemory memory = make_memory(64 * kMib);
  const auto initrd = load_initrd_bytes(memory, filled(0x1234, 0x77), kKernel);
  REQUIRE(initrd.has_value());
  CHECK(initrd->start == GuestAddress(64 * kMib - 0x2000));
  CHECK(initrd->size == 0x1234);
  CHECK(*memory.read<std::uint8_t>(initrd->start) == 0x77);
  CHECK(*memory.read<std::uint8_t>(initrd->start.unchecked_add(0x1233)) == 0x77);
  CHECK(*memory.read<std::uint8_t>(initrd->start.unchecked_add(0x1234)) == 0);
}

TEST_CASE("an initrd stays below the gap, and below what the kernel can reach") {
  GuestMemory memory = make_memory(8 * kGib);
  LoadedKernel kernel = kKernel;
  std::uint64_t top = 3 * kGib;
  SECTION("vmlinux") {}
  SECTION("bzImage") {
    kernel.setup_header = BzImage().header;
    top = 2 * kGib;
  }
  const auto initrd = load_initrd_bytes(memory, filled(0x1000, 1), kernel);
  REQUIRE(initrd.has_value());
  CHECK(initrd->start == GuestAddress(top - 0x1000));
}

TEST_CASE("an initrd may fill all that the kernel leaves, and no more") {
  GuestMemory memory = make_memory(32 * kMib);
  CHECK(load_initrd_bytes(memory, filled(8 * kMib, 1), kKernel)->start == kKernel.end);
  const auto too_large = load_initrd_bytes(memory, filled(8 * kMib + 1, 1), kKernel);
  REQUIRE_FALSE(too_large.has_value());
  CHECK_THAT(too_large.error().message, Catch::StartsWith("initrd test.cpio does not fit") &&
                                            Contains("9 MiB, of which the kernel leaves 8 (of 32 in all)"));
  CHECK_FALSE(load_initrd_bytes(memory, filled(33 * kMib, 1), kKernel).has_value());
}

TEST_CASE("an initrd that the kernel cannot reach is refused") {
  GuestMemory memory = make_memory(64 * kMib);
  LoadedKernel kernel = kKernel;
  kernel.setup_header = SetupHeader{};
  CHECK_FALSE(load_initrd_bytes(memory, filled(1, 1), kernel).has_value());
  kernel.setup_header->initrd_addr_max = 0xffffffff;
  CHECK(load_initrd_bytes(memory, filled(1, 1), kernel).has_value());
}

TEST_CASE("an empty initrd is refused") {
  GuestMemory memory = make_memory(64 * kMib);
  const auto initrd = load_initrd_bytes(memory, {}, kKernel);
  REQUIRE_FALSE(initrd.has_value());
  CHECK(initrd.error().message == "initrd test.cpio is empty");
}

}  // namespace mayfly::vmm::x86_64
