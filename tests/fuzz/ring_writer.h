// A driver that writes whatever the fuzzer likes into its rings, with a liking for what nearly makes sense.
#pragma once

#include "tests/fuzz/input.h"
#include "tests/support/virtio_driver.h"

namespace mayfly::fuzz {

class RingWriter {
 public:
  RingWriter(test::FakeGuest& guest, test::DriverQueue& driver, base::GuestAddress data)
      : guest_(guest), driver_(driver), data_(data) {}

  // An address that is mostly inside the data area.
  std::uint64_t address(Input& input) {
    const std::uint64_t number = input.number();
    return (number & 1U) != 0 ? number : data_.value() + (number >> 1U) % 0x3000;
  }
  test::RawDescriptor descriptor(Input& input) {
    const std::uint64_t where = address(input);
    const auto length = static_cast<std::uint32_t>(input.number());
    const std::uint8_t flags = input.byte();
    // Mostly the three known flags, mostly without INDIRECT.
    const auto kept = static_cast<std::uint16_t>(flags >= 0xf0   ? flags
                                                 : flags >= 0xc0 ? flags & 7
                                                                 : flags & 3);
    return {where, length, kept, static_cast<std::uint16_t>(input.number())};
  }
  // One act of the driver's.
  void act(Input& input) {
    switch (input.byte() % 8) {
      case 0:
      case 1: {
        const auto index = static_cast<std::uint16_t>(input.byte() % driver_.size());
        driver_.write_descriptor(index, descriptor(input));
        break;
      }
      case 2: {
        // A table for an indirect descriptor, at the start of the data area.
        const unsigned entries = input.byte() % 16;
        for (unsigned i = 0; i < entries; ++i) {
          guest_.store(data_.unchecked_add(16ULL * i), descriptor(input));
        }
        driver_.write_descriptor(static_cast<std::uint16_t>(input.byte() % driver_.size()),
                                 {data_.value(), 16U * entries, test::kIndirect, std::uint16_t{0}});
        break;
      }
      case 3:
      case 4:
        driver_.make_available(static_cast<std::uint16_t>(input.byte() % driver_.size()));
        break;
      case 5:
        driver_.make_available(static_cast<std::uint16_t>(input.number()));
        break;
      case 6:
        driver_.set_available_index(static_cast<std::uint16_t>(input.number()));
        break;
      default:
        driver_.set_used_event(static_cast<std::uint16_t>(input.number()));
        driver_.set_available_flags(input.byte());
    }
  }

 private:
  test::FakeGuest& guest_;
  test::DriverQueue& driver_;
  base::GuestAddress data_;
};

}  // namespace mayfly::fuzz
