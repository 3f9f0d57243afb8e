// Which device answers at which address: one bus for memory-mapped registers, one for ports.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"

namespace mayfly::vmm {

// A device with registers. Both functions are called from any vCPU thread, several at once.
class BusDevice {
 public:
  virtual ~BusDevice() = default;
  // `offset` from the start of the device's range; the access lies within the range. 1–8 bytes.
  virtual void read(std::uint64_t offset, std::span<std::byte> out) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> in) = 0;
};

// Devices are added before any vCPU runs; after that the map does not change and needs no lock.
class Bus {
 public:
  // `name`: "port" or "mmio", for messages.
  explicit Bus(std::string_view name) : name_(name) {}

  // `device` outlives the bus. Refuses a range that is empty, overflows or overlaps another.
  base::Status add(std::uint64_t start, std::uint64_t size, std::string_view device_name, BusDevice& device);

  // An access that is not wholly inside one device's range reads as all ones, or is dropped; it is counted.
  void read(std::uint64_t address, std::span<std::byte> out);
  void write(std::uint64_t address, std::span<const std::byte> in);

  [[nodiscard]] std::uint64_t unmapped_reads() const { return unmapped_reads_; }
  [[nodiscard]] std::uint64_t unmapped_writes() const { return unmapped_writes_; }

 private:
  struct Entry {
    std::uint64_t start;
    std::uint64_t last;  // inclusive: a range may end at the top of the address space
    std::string name;
    BusDevice* device;
  };
  [[nodiscard]] const Entry* find(std::uint64_t address, std::size_t length) const;

  std::string name_;
  std::vector<Entry> entries_;  // by start
  std::atomic<std::uint64_t> unmapped_reads_{0};
  std::atomic<std::uint64_t> unmapped_writes_{0};
  base::log::Limiter unmapped_log_;
};

}  // namespace mayfly::vmm
