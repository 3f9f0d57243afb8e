#include "vmm/x86_64/mp_table.h"

#include <array>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

#include "base/endian.h"
#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64 {
namespace {

using base::Le16;
using base::Le32;
using base::Wire;

// Chapter 4 of the specification, with its names.
struct FloatingPointer {
  std::array<char, 4> signature = {'_', 'M', 'P', '_'};
  Le32 physical_address_pointer;
  std::uint8_t length = 1;  // in units of 16 bytes
  std::uint8_t spec_rev = 4;
  std::uint8_t checksum = 0;
  // Byte 1 zero: a configuration table is present. Byte 2 zero: virtual wire mode, no IMCR.
  std::array<std::uint8_t, 5> features = {};
};
static_assert(sizeof(FloatingPointer) == 16 && Wire<FloatingPointer>);

struct TableHeader {
  std::array<char, 4> signature = {'P', 'C', 'M', 'P'};
  Le16 base_table_length;
  std::uint8_t spec_rev = 4;
  std::uint8_t checksum = 0;
  std::array<char, 8> oem_id = {'M', 'A', 'Y', 'F', 'L', 'Y', ' ', ' '};
  std::array<char, 12> product_id = {'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' '};
  Le32 oem_table_pointer;
  Le16 oem_table_size;
  Le16 entry_count;
  Le32 address_of_local_apic;
  Le16 extended_table_length;
  std::uint8_t extended_table_checksum = 0;
  std::uint8_t reserved = 0;
};
static_assert(sizeof(TableHeader) == 44 && Wire<TableHeader>);

struct Processor {
  std::uint8_t entry_type = 0;
  std::uint8_t local_apic_id = 0;
  std::uint8_t local_apic_version = 0x14;
  std::uint8_t cpu_flags = 0;
  Le32 cpu_signature = std::uint32_t{0x600};  // family 6; Linux reads the real one from CPUID
  Le32 feature_flags = std::uint32_t{0x201};  // FPU, APIC
  std::array<std::uint8_t, 8> reserved = {};
};
static_assert(sizeof(Processor) == 20 && Wire<Processor>);
constexpr std::uint8_t kCpuEnabled = 1;
constexpr std::uint8_t kCpuBootstrap = 2;

struct Bus {
  std::uint8_t entry_type = 1;
  std::uint8_t bus_id = 0;
  std::array<char, 6> bus_type_string = {'I', 'S', 'A', ' ', ' ', ' '};
};
static_assert(sizeof(Bus) == 8 && Wire<Bus>);

struct IoApic {
  std::uint8_t entry_type = 2;
  std::uint8_t io_apic_id = 0;
  std::uint8_t io_apic_version = 0x11;
  std::uint8_t flags = 1;  // usable
  Le32 address;
};
static_assert(sizeof(IoApic) == 8 && Wire<IoApic>);

// Also the local interrupt assignment, which has the same form.
struct InterruptAssignment {
  std::uint8_t entry_type = 0;
  std::uint8_t interrupt_type = 0;
  Le16 flags{};  // zero: polarity and trigger mode as the bus has them; ISA is edge-triggered, active high
  std::uint8_t source_bus_id = 0;
  std::uint8_t source_bus_irq = 0;
  std::uint8_t destination_apic_id = 0;
  std::uint8_t destination_apic_intin = 0;
};
static_assert(sizeof(InterruptAssignment) == 8 && Wire<InterruptAssignment>);
constexpr std::uint8_t kIoInterrupt = 3;
constexpr std::uint8_t kLocalInterrupt = 4;
constexpr std::uint8_t kTypeInt = 0;
constexpr std::uint8_t kTypeNmi = 1;
constexpr std::uint8_t kTypeExtInt = 3;
constexpr std::uint8_t kAllLocalApics = 0xff;

// The timer, the devices that are always there, and one for each virtio device.
constexpr std::array kFixedInterrupts = {kTimerGsi, kKeyboardGsi, kSerialGsi};

std::vector<std::uint8_t> interrupts(std::uint32_t virtio_devices) {
  std::vector<std::uint8_t> pins(kFixedInterrupts.begin(), kFixedInterrupts.end());
  for (std::uint32_t i = 0; i < virtio_devices; ++i)
    pins.push_back(static_cast<std::uint8_t>(virtio_mmio_gsi(i)));
  return pins;
}

// Makes all bytes sum to zero (mod 256).
std::uint8_t checksum(std::span<const std::byte> bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), std::uint8_t{0}, [](std::uint8_t sum, std::byte byte) {
    return static_cast<std::uint8_t>(sum - std::to_integer<std::uint8_t>(byte));
  });
}

class Table {
 public:
  template <Wire T>
  void add(const T& entry) {
    const auto bytes = std::as_bytes(std::span(&entry, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    ++count_;
  }

  // The whole table: header, then entries.
  std::vector<std::byte> finish() {
    TableHeader header;
    header.base_table_length = static_cast<std::uint16_t>(sizeof(header) + bytes_.size());
    header.entry_count = count_;
    header.address_of_local_apic = static_cast<std::uint32_t>(kLapic.value());
    const auto header_bytes = std::as_bytes(std::span(&header, 1));
    header.checksum = static_cast<std::uint8_t>(checksum(header_bytes) + checksum(bytes_));
    bytes_.insert(bytes_.begin(), header_bytes.begin(), header_bytes.end());
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  std::uint16_t count_ = 0;
};

// Entries stand in the order of their types (section 4.3).
std::vector<std::byte> make_table(const Platform& platform) {
  Table table;
  const auto vcpu_count = static_cast<std::uint8_t>(platform.vcpu_count);
  for (std::uint8_t i = 0; i < vcpu_count; ++i) {
    const auto flags = static_cast<std::uint8_t>(kCpuEnabled | (i == 0 ? kCpuBootstrap : 0));
    table.add(Processor{.local_apic_id = i, .cpu_flags = flags});
  }
  table.add(Bus{});
  const std::uint8_t ioapic_id = vcpu_count;
  table.add(IoApic{.io_apic_id = ioapic_id, .address = static_cast<std::uint32_t>(kIoapic.value())});
  // KVM's own routing: interrupt n is pin n, the timer's 0 included.
  for (const std::uint8_t pin : interrupts(platform.virtio_devices)) {
    table.add(InterruptAssignment{.entry_type = kIoInterrupt,
                                  .interrupt_type = kTypeInt,
                                  .source_bus_irq = pin,
                                  .destination_apic_id = ioapic_id,
                                  .destination_apic_intin = pin});
  }
  // set_lapic_lvt() agrees with these two.
  table.add(InterruptAssignment{
      .entry_type = kLocalInterrupt, .interrupt_type = kTypeExtInt, .destination_apic_intin = 0});
  table.add(InterruptAssignment{.entry_type = kLocalInterrupt,
                                .interrupt_type = kTypeNmi,
                                .destination_apic_id = kAllLocalApics,
                                .destination_apic_intin = 1});
  return table.finish();
}

}  // namespace

base::Status write_mp_table(base::GuestMemory& memory, const Platform& platform) {
  if (platform.vcpu_count < 1 || platform.vcpu_count > kMostMpTableCpus) {
    return base::fail("{} vCPUs: 1 to {} are possible", platform.vcpu_count, kMostMpTableCpus);
  }
  if (platform.virtio_devices > kMostVirtioDevices) {
    return base::fail("{} virtio devices: 0 to {} are possible", platform.virtio_devices, kMostVirtioDevices);
  }
  static_assert(sizeof(FloatingPointer) + sizeof(TableHeader) + kMostMpTableCpus * sizeof(Processor) +
                    sizeof(Bus) + sizeof(IoApic) +
                    (kFixedInterrupts.size() + kMostVirtioDevices + 2) * sizeof(InterruptAssignment) <=
                kMpTableSize);
  const std::vector<std::byte> table = make_table(platform);
  const GuestAddress table_address = kMpTable.unchecked_add(sizeof(FloatingPointer));
  FloatingPointer pointer;
  pointer.physical_address_pointer = static_cast<std::uint32_t>(table_address.value());
  pointer.checksum = checksum(std::as_bytes(std::span(&pointer, 1)));

  TRY(memory.write(kMpTable, pointer));
  TRY(memory.write_bytes(table_address, table));
  TRY(memory.write(kBiosEbdaSegment, Le16(static_cast<std::uint16_t>(kMpTable.value() >> 4U))));
  return memory.write(kBiosBaseMemory, Le16(static_cast<std::uint16_t>(kMpTable.value() / kKib)));
}

}  // namespace mayfly::vmm::x86_64
