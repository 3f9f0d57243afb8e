#include "vmm/x86_64/boot.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::Le32;
using base::Le64;
using test::make_memory;

LoadedKernel vmlinux(std::uint64_t end = 0x1800000) {
  return {.entry = GuestAddress(0x1000000),
          .protocol = BootProtocol::kLinux64,
          .end = GuestAddress(end),
          .is_linux = true,
          .setup_header = {}};
}

LoadedKernel pvh_kernel() {
  LoadedKernel kernel = vmlinux();
  kernel.protocol = BootProtocol::kPvh;
  return kernel;
}

CommandLine command_line(std::string_view text) {
  return *CommandLine::create(text);
}

boot_params params_of(const GuestMemory& memory) {
  boot_params params{};
  std::memcpy(&params, memory.slice(kZeroPage, sizeof(params))->data(), sizeof(params));
  return params;
}

std::uint64_t u64(const GuestMemory& memory, std::uint64_t at) {
  return *memory.read<Le64>(GuestAddress(at));
}
std::uint32_t u32(const GuestMemory& memory, std::uint64_t at) {
  return *memory.read<Le32>(GuestAddress(at));
}

// Where a virtual address leads through the tables at `root`; nothing where it is not present.
std::optional<std::uint64_t> translate(const GuestMemory& memory, std::uint64_t root, std::uint64_t address) {
  std::uint64_t table = root;
  for (const unsigned shift : {39U, 30U, 21U}) {
    const std::uint64_t entry = u64(memory, table + ((address >> shift) & 511U) * 8);
    if ((entry & 3U) != 3) return std::nullopt;
    if (shift == 21) {
      CHECK((entry & 0x80U) != 0);
      return (entry & ~std::uint64_t{0x1fffff}) + (address & 0x1fffff);
    }
    table = entry & ~std::uint64_t{0xfff};
  }
  return std::nullopt;
}

}  // namespace

// With a + a check takes a copy: fields of boot_params need not be aligned.
TEST_CASE("boot_params has what a vmlinux needs") {
  GuestMemory memory = make_memory(4 * kGib);
  const Initrd initrd{GuestAddress(0x7000000), 0x1234};
  REQUIRE(write_boot_tables(memory, vmlinux(), initrd, command_line("quiet"), {.vcpu_count = 2}).has_value());
  const boot_params params = params_of(memory);
  CHECK(+params.hdr.type_of_loader == 0xff);
  CHECK(+params.hdr.boot_flag == 0xaa55);
  CHECK(+params.hdr.header == 0x53726448);
  CHECK(+params.hdr.cmd_line_ptr == kCommandLine.value());
  CHECK(+params.hdr.ramdisk_image == 0x7000000);
  CHECK(+params.hdr.ramdisk_size == 0x1234);
  CHECK(+params.ext_ramdisk_image == 0);
  CHECK(+params.ext_ramdisk_size == 0);
  CHECK(+params.sentinel == 0);
  REQUIRE(+params.e820_entries == 4);
  const auto map = memory_map(memory);
  for (std::size_t i = 0; i < map.size(); ++i) {
    CHECK(+params.e820_table[i].addr == map.at(i).start.value());
    CHECK(+params.e820_table[i].size == map.at(i).size);
    CHECK(+params.e820_table[i].type == static_cast<std::uint32_t>(map.at(i).type));
  }
  CHECK(std::memcmp(memory.slice(kCommandLine, 6)->data(), "quiet\0", 6) == 0);
  CHECK(std::memcmp(memory.slice(kMpTable, 4)->data(), "_MP_", 4) == 0);
}

TEST_CASE("without an initrd there is none in boot_params") {
  GuestMemory memory = make_memory(64 * kMib);
  REQUIRE(write_boot_tables(memory, vmlinux(), {}, command_line(""), {.vcpu_count = 1}).has_value());
  CHECK(+params_of(memory).hdr.ramdisk_image == 0);
  CHECK(+params_of(memory).hdr.ramdisk_size == 0);
}

TEST_CASE("a bzImage finds its own setup header again") {
  GuestMemory memory = make_memory(64 * kMib);
  LoadedKernel kernel = vmlinux();
  kernel.setup_header = test::BzImage().header;
  kernel.setup_header->cmdline_size = 5;
  REQUIRE(write_boot_tables(memory, kernel, {}, command_line("quiet"), {.vcpu_count = 1}).has_value());
  const boot_params params = params_of(memory);
  CHECK(+params.hdr.init_size == 0x800000);
  CHECK(+params.hdr.type_of_loader == 0xff);
  CHECK(+params.hdr.cmd_line_ptr == kCommandLine.value());

  const auto status = write_boot_tables(memory, kernel, {}, command_line("quieter"), {.vcpu_count = 1});
  REQUIRE_FALSE(status.has_value());
  CHECK_THAT(status.error().message, Catch::Contains("7 characters") && Catch::Contains("at most 5"));
}

TEST_CASE("page tables map every address to itself, up to the kernel's end") {
  for (const std::uint64_t end : {0x1800000UL, kGib, kGib + 1, 2 * kGib, 3 * kGib}) {
    INFO("kernel end " << end);
    GuestMemory memory = make_memory(3 * kGib);
    REQUIRE(write_boot_tables(memory, vmlinux(end), {}, command_line(""), {.vcpu_count = 1}).has_value());
    for (const std::uint64_t address :
         {std::uint64_t{0}, kZeroPage.value(), kCommandLine.value(), std::uint64_t{0x1000010}, end - 1}) {
      CHECK(translate(memory, kPageTables.value(), address) == address);
    }
    CHECK_FALSE(translate(memory, kPageTables.value(), 4 * kGib).has_value());
  }
}

TEST_CASE("a 64-bit Linux starts in long mode with boot_params in rsi") {
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::memset(&regs, 0xff, sizeof(regs));
  sregs.apic_base = 0xfee00900;
  set_boot_registers(vmlinux(), regs, sregs);
  CHECK(regs.rip == 0x1000000);
  CHECK(regs.rsi == kZeroPage.value());
  CHECK(regs.rflags == 2);
  CHECK(regs.rbx == 0);
  CHECK(sregs.cr0 == 0x80000011);
  CHECK(sregs.cr3 == kPageTables.value());
  CHECK(sregs.cr4 == 0x20);
  CHECK(sregs.efer == 0x500);
  CHECK(sregs.cs.selector == 0x10);
  CHECK(sregs.cs.l == 1);
  CHECK(sregs.cs.db == 0);
  CHECK(sregs.cs.type == 11);
  CHECK(sregs.ds.selector == 0x18);
  CHECK(sregs.ss.type == 3);
  CHECK(sregs.ss.limit == 0xffffffff);
  CHECK(sregs.tr.type == 11);
  CHECK(sregs.tr.s == 0);
  CHECK(sregs.tr.present == 1);
  CHECK(sregs.tr.limit == 0x67);
  CHECK(sregs.idt.limit == 0);
  CHECK(sregs.apic_base == 0xfee00900);
}

TEST_CASE("a PVH kernel starts in 32-bit mode with its start info in rbx") {
  kvm_regs regs{};
  kvm_sregs sregs{};
  set_boot_registers(pvh_kernel(), regs, sregs);
  CHECK(regs.rip == 0x1000000);
  CHECK(regs.rbx == kZeroPage.value());
  CHECK(regs.rflags == 2);
  CHECK(sregs.cr0 == 0x11);
  CHECK(sregs.cr4 == 0);
  CHECK(sregs.efer == 0);
  CHECK(sregs.cs.l == 0);
  CHECK(sregs.cs.db == 1);
  CHECK(sregs.cs.base == 0);
  CHECK(sregs.cs.limit == 0xffffffff);
  CHECK(sregs.tr.limit == 0x67);
}

TEST_CASE("the segment registers are what the descriptors in memory say") {
  for (const LoadedKernel& kernel : {vmlinux(), pvh_kernel()}) {
    GuestMemory memory = make_memory(64 * kMib);
    kvm_regs regs{};
    kvm_sregs sregs{};
    set_boot_registers(kernel, regs, sregs);
    REQUIRE(write_boot_tables(memory, kernel, {}, command_line(""), {.vcpu_count = 1}).has_value());
    CHECK(sregs.gdt.base == kGdt.value());
    CHECK(sregs.gdt.limit == 47);
    const std::uint64_t code = u64(memory, sregs.gdt.base + sregs.cs.selector);
    CHECK(code == (kernel.protocol == BootProtocol::kPvh ? 0x00cf9b000000ffff : 0x00af9b000000ffff));
    CHECK(u64(memory, sregs.gdt.base + sregs.ds.selector) == 0x00cf93000000ffff);
    CHECK(u64(memory, sregs.gdt.base + sregs.tr.selector) == 0x00008b0000000067);
  }
}

TEST_CASE("hvm_start_info has what a PVH kernel needs") {
  GuestMemory memory = make_memory(4 * kGib);
  const Initrd initrd{GuestAddress(0x7000000), 0x1234};
  REQUIRE(
      write_boot_tables(memory, pvh_kernel(), initrd, command_line("quiet"), {.vcpu_count = 1}).has_value());
  const std::uint64_t info = kZeroPage.value();
  CHECK(u32(memory, info) == 0x336ec578);
  CHECK(u32(memory, info + 4) == 1);
  REQUIRE(u32(memory, info + 12) == 1);
  const std::uint64_t modules = u64(memory, info + 16);
  CHECK(u64(memory, modules) == 0x7000000);
  CHECK(u64(memory, modules + 8) == 0x1234);
  CHECK(u64(memory, info + 24) == kCommandLine.value());
  CHECK(u64(memory, info + 32) == 0);
  const std::uint64_t entries = u64(memory, info + 40);
  const auto map = memory_map(memory);
  REQUIRE(u32(memory, info + 48) == map.size());
  for (std::size_t i = 0; i < map.size(); ++i) {
    CHECK(u64(memory, entries + i * 24) == map.at(i).start.value());
    CHECK(u64(memory, entries + i * 24 + 8) == map.at(i).size);
    CHECK(u32(memory, entries + i * 24 + 16) == static_cast<std::uint32_t>(map.at(i).type));
  }
  REQUIRE(write_boot_tables(memory, pvh_kernel(), {}, command_line(""), {.vcpu_count = 1}).has_value());
  CHECK(u32(memory, info + 12) == 0);
}

TEST_CASE("boot tables need a possible number of vCPUs and low memory") {
  GuestMemory memory = make_memory(64 * kMib);
  CHECK_FALSE(write_boot_tables(memory, vmlinux(), {}, command_line(""), {.vcpu_count = 0}).has_value());
  CHECK_FALSE(write_boot_tables(memory, vmlinux(), {}, command_line(""), {.vcpu_count = 33}).has_value());
  auto tiny = GuestMemory::create(std::vector{GuestMemory::Range{GuestAddress(0), kPageSize}});
  CHECK_FALSE(write_boot_tables(*tiny, vmlinux(), {}, command_line(""), {.vcpu_count = 1}).has_value());
}

}  // namespace mayfly::vmm::x86_64
