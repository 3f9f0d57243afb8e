#include "vmm/x86_64/mp_table.h"

#include <catch2/catch.hpp>
#include <cstring>
#include <set>

#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::Le16;
using base::Le32;

// Reads the table as a kernel would, from the BIOS data area on.
class Reader {
 public:
  explicit Reader(const GuestMemory& memory) : memory_(memory) {}
  [[nodiscard]] std::uint8_t u8(std::uint64_t at) const {
    return *memory_.read<std::uint8_t>(GuestAddress(at));
  }
  [[nodiscard]] std::uint16_t u16(std::uint64_t at) const { return *memory_.read<Le16>(GuestAddress(at)); }
  [[nodiscard]] std::uint32_t u32(std::uint64_t at) const { return *memory_.read<Le32>(GuestAddress(at)); }
  [[nodiscard]] std::string text(std::uint64_t at, std::uint64_t length) const {
    const auto bytes = *memory_.slice(GuestAddress(at), length);
    std::string copy(length, '\0');
    std::memcpy(copy.data(), bytes.data(), length);
    return copy;
  }
  [[nodiscard]] std::uint8_t sum(std::uint64_t at, std::uint64_t length) const {
    unsigned total = 0;
    for (std::uint64_t i = 0; i < length; ++i) total += u8(at + i);
    return static_cast<std::uint8_t>(total);
  }

 private:
  const GuestMemory& memory_;
};

}  // namespace

TEST_CASE("the MP table describes 1 to 32 processors and their interrupts") {
  for (std::uint32_t count = 1; count <= kMostMpTableCpus; ++count) {
    INFO(count << " vCPUs");
    GuestMemory memory = test::make_memory(kMib);
    const std::uint32_t devices = count % (kMostVirtioDevices + 1);
    REQUIRE(write_mp_table(memory, {.vcpu_count = count, .virtio_devices = devices}).has_value());
    const Reader reader(memory);

    const std::uint64_t pointer = std::uint64_t{reader.u16(0x40e)} << 4U;
    CHECK(pointer == kMpTable.value());
    CHECK(reader.u16(0x413) == 639);
    CHECK(reader.text(pointer, 4) == "_MP_");
    CHECK(reader.sum(pointer, 16) == 0);
    CHECK(reader.u8(pointer + 8) == 1);
    CHECK(reader.u8(pointer + 9) == 4);
    CHECK(reader.u8(pointer + 11) == 0);
    CHECK(reader.u8(pointer + 12) == 0);

    const std::uint64_t table = reader.u32(pointer + 4);
    const std::uint64_t length = reader.u16(table + 4);
    CHECK(reader.text(table, 4) == "PCMP");
    CHECK(reader.sum(table, length) == 0);
    CHECK(table + length <= kBaseMemoryEnd.value());
    CHECK(reader.u32(table + 36) == kLapic.value());

    std::set<unsigned> processors;
    std::set<unsigned> pins;
    unsigned boot_processors = 0;
    unsigned isa_buses = 0;
    unsigned ioapic_id = 0xff;
    unsigned local = 0;
    unsigned last_type = 0;
    std::uint64_t at = table + 44;
    const unsigned entries = reader.u16(table + 34);
    for (unsigned i = 0; i < entries; ++i) {
      const unsigned type = reader.u8(at);
      CHECK(type >= last_type);
      last_type = type;
      switch (type) {
        case 0:
          CHECK(processors.insert(reader.u8(at + 1)).second);
          CHECK((reader.u8(at + 3) & 1) == 1);
          if ((reader.u8(at + 3) & 2) != 0) {
            ++boot_processors;
            CHECK(reader.u8(at + 1) == 0);
          }
          break;
        case 1:
          CHECK(reader.text(at + 2, 6) == "ISA   ");
          CHECK(reader.u8(at + 1) == 0);
          ++isa_buses;
          break;
        case 2:
          ioapic_id = reader.u8(at + 1);
          CHECK((reader.u8(at + 3) & 1) == 1);
          CHECK(reader.u32(at + 4) == kIoapic.value());
          break;
        case 3:
          CHECK(reader.u8(at + 1) == 0);   // INT
          CHECK(reader.u16(at + 2) == 0);  // as the bus
          CHECK(reader.u8(at + 4) == 0);
          CHECK(reader.u8(at + 5) == reader.u8(at + 7));
          CHECK(reader.u8(at + 6) == ioapic_id);
          CHECK(pins.insert(reader.u8(at + 7)).second);
          break;
        case 4:
          CHECK(reader.u8(at + 1) == (local == 0 ? 3 : 1));  // ExtINT on LINT0, NMI on LINT1
          CHECK(reader.u8(at + 7) == local);
          CHECK(reader.u8(at + 6) == (local == 0 ? 0 : 0xff));
          ++local;
          break;
        default:
          FAIL("entry type " << type);
      }
      at += type == 0 ? 20 : 8;
    }
    CHECK(at == table + length);
    CHECK(processors.size() == count);
    CHECK(*processors.rbegin() == count - 1);
    CHECK(boot_processors == 1);
    CHECK(isa_buses == 1);
    CHECK(ioapic_id == count);
    std::set<unsigned> wanted = {kTimerGsi, kKeyboardGsi, kSerialGsi};
    for (std::uint32_t i = 0; i < devices; ++i) wanted.insert(virtio_mmio_gsi(i));
    CHECK(pins == wanted);
    CHECK(local == 2);
  }
}

TEST_CASE("other numbers of processors are refused") {
  GuestMemory memory = test::make_memory(kMib);
  for (const std::uint32_t count : {0U, 33U, 256U, 0xffffffffU}) {
    const auto status = write_mp_table(memory, {.vcpu_count = count});
    REQUIRE_FALSE(status.has_value());
    CHECK_THAT(status.error().message, Catch::Contains("1 to 32"));
  }
}

TEST_CASE("more devices than interrupts are refused") {
  GuestMemory memory = test::make_memory(kMib);
  REQUIRE(write_mp_table(memory, {.virtio_devices = kMostVirtioDevices}).has_value());
  const auto status = write_mp_table(memory, {.virtio_devices = kMostVirtioDevices + 1});
  REQUIRE_FALSE(status.has_value());
  CHECK_THAT(status.error().message, Catch::Contains("0 to 19"));
}

}  // namespace mayfly::vmm::x86_64
