// What a tiny guest does with a virtio-mmio device, as machine code.
#pragma once

#include <cstdint>
#include <string_view>

#include "tests/support/guest_code.h"
#include "tests/support/mmio_driver.h"

namespace mayfly::test {

// Where a guest keeps a queue.
struct GuestQueue {
  std::uint16_t index = 0;
  std::uint16_t size = 0;
  std::uint32_t table = 0;
  std::uint32_t available = 0;
  std::uint32_t used = 0;
};

// Emits into a Code; uses EAX, EDX and EDI. Device registers must be mapped (Code::map_devices()).
class GuestDriver {
 public:
  GuestDriver(Code& code, std::uint32_t registers) : code_(code), registers_(registers) {}

  void write(std::uint64_t offset, std::uint32_t value) { poke(registers_ + reg32(offset), value); }
  // Into EAX.
  void read(std::uint64_t offset) { peek(registers_ + reg32(offset)); }
  void poke(std::uint32_t address, std::uint32_t value) {
    code_.mov_edi(address);
    code_.store32(0, value);
  }
  void poke8(std::uint32_t address, std::uint8_t value) {
    code_.mov_edi(address);
    code_.store8(0, value);
  }
  void peek(std::uint32_t address) {
    code_.mov_edi(address);
    code_.load_eax(0);
  }

  // From reset to FEATURES_OK, with VERSION_1 and `features`, which are below 2^32.
  void negotiate(std::uint32_t features) {
    for (const std::uint32_t status : {0U, 1U, 3U}) write(reg::kStatus, status);
    write(reg::kDriverFeaturesSel, 0);
    write(reg::kDriverFeatures, features);
    write(reg::kDriverFeaturesSel, 1);
    write(reg::kDriverFeatures, 1);
    write(reg::kStatus, 11);
  }
  void set_queue(const GuestQueue& queue) {
    write(reg::kQueueSel, queue.index);
    write(reg::kQueueNum, queue.size);
    write(reg::kQueueDescLow, queue.table);
    write(reg::kQueueDriverLow, queue.available);
    write(reg::kQueueDeviceLow, queue.used);
    write(reg::kQueueReady, 1);
  }
  void go() { write(reg::kStatus, 15); }

  void descriptor(std::uint32_t table, std::uint32_t index, std::uint64_t address, std::uint32_t length,
                  std::uint16_t flags, std::uint16_t next = 0) {
    code_.mov_edi(table + index * 16);
    code_.store32(0, static_cast<std::uint32_t>(address));
    code_.store32(4, static_cast<std::uint32_t>(address >> 32U));
    code_.store32(8, length);
    code_.store32(12, flags | std::uint32_t{next} << 16U);
  }
  // The flags and the index of both rings.
  void clear(const GuestQueue& queue) {
    poke(queue.available, 0);
    poke(queue.used, 0);
  }
  void available_entry(const GuestQueue& queue, std::uint32_t slot, std::uint16_t head) {
    code_.mov_edi(queue.available);
    code_.store16(4 + slot * 2, head);
  }
  void available_index(const GuestQueue& queue, std::uint16_t index) {
    code_.mov_edi(queue.available);
    code_.store16(2, index);
  }
  void kick(const GuestQueue& queue) { write(reg::kQueueNotify, queue.index); }
  void wait_used(const GuestQueue& queue, std::uint16_t index) {
    code_.mov_edi(queue.used);
    const auto wait = code_.here();
    code_.load_ax(2);
    code_.cmp_ax(index);
    code_.jne(wait);
  }

 private:
  static std::uint32_t reg32(std::uint64_t offset) { return static_cast<std::uint32_t>(offset); }
  Code& code_;
  std::uint32_t registers_;
};

}  // namespace mayfly::test
