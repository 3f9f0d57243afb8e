// The attacks by way of requests, on one device each.
#include <algorithm>
#include <array>
#include <utility>

#include "tests/kvm/hostile_guest.h"

namespace mayfly::test {

namespace {

constexpr std::uint32_t kPattern = 0x5a5a5a5a;

// A block request of this header, 512 bytes of data and a status.
Attack request(std::string name, std::uint32_t type, std::uint64_t sector, std::uint8_t status,
               std::uint32_t length = 512, std::uint16_t data_flags = kWrite,
               std::uint32_t header_length = 16) {
  return {.name = std::move(name), .emit = [=](HostileGuest& guest) {
            GuestDriver& driver = guest.driver();
            guest.begin();
            driver.poke(at::kHeader, type);
            driver.poke(at::kHeader + 8, static_cast<std::uint32_t>(sector));
            driver.poke(at::kHeader + 12, static_cast<std::uint32_t>(sector >> 32U));
            driver.poke8(at::kStatus, 0xee);
            guest.chain(0, at::kHeader, header_length, kNext, 1);
            guest.chain(1, at::kData, length, static_cast<std::uint16_t>(kNext | data_flags), 2);
            guest.chain(2, at::kStatus, 1, kWrite);
            guest.offer();
            guest.expect_answer();
            guest.expect_byte(at::kStatus, status, "the request's status");
          }};
}

// A packet that is returned, whatever is thought of it.
Attack packet(std::string name, std::vector<std::uint8_t> bytes) {
  return {.name = std::move(name), .emit = [bytes = std::move(bytes)](HostileGuest& guest) {
            guest.begin();
            guest.code().place(at::kPacket, bytes);
            guest.chain(0, at::kPacket, static_cast<std::uint32_t>(bytes.size()), 0);
            guest.offer();
            guest.expect_answer();
          }};
}

std::vector<std::uint8_t> vsock_packet(std::uint8_t source, std::uint8_t type, std::uint8_t operation,
                                       std::uint8_t length = 0) {
  std::vector<std::uint8_t> bytes(44);
  bytes[0] = source;
  bytes[8] = 2;
  bytes[16] = bytes[20] = 77;
  bytes[24] = bytes[27] = length;
  bytes[28] = type;
  bytes[30] = operation;
  return bytes;
}

std::vector<std::uint8_t> net_packet(std::uint8_t gso_type, std::uint8_t last_of_mac) {
  std::vector<std::uint8_t> bytes(12 + 60, 0xff);
  std::fill_n(bytes.begin(), 12, std::uint8_t{0});
  bytes[1] = gso_type;
  const std::array<std::uint8_t, 8> source_and_type = {0x02, 0xfe, 1, 2, 3, last_of_mac, 0x88, 0xb5};
  std::ranges::copy(source_and_type, bytes.begin() + 18);
  return bytes;
}

// A notification storm with a request at each, whose answer is not waited for.
void storms_with_requests(HostileGuest& guest) {
  Code& code = guest.code();
  GuestDriver& driver = guest.driver();
  const auto again = code.here();
  guest.begin();
  guest.work();                  // its chain and its header stay
  code.raw({0xbb, 1, 0, 0, 0});  // mov ebx, 1
  code.mov_ecx(100);             // fewer than make the index jump
  const auto kick = code.here();
  code.raw({0xff, 0xc3});  // inc ebx
  code.mov_edi(guest.queue().available);
  code.raw({0x66, 0x89, 0x5f, 0x02});  // mov [rdi + 2], bx
  driver.kick(guest.queue());
  code.raw({0xff, 0xc9});  // dec ecx
  code.jne(kick);
  code.say("#");
  code.in_al(0x3fd);
  code.test_al(0x01);
  code.je(again);
  code.in_al(0x3f8);
}

void resets_in_flight(HostileGuest& guest) {
  Code& code = guest.code();
  GuestDriver& driver = guest.driver();
  code.mov_esi(20);
  const auto again = code.here();
  guest.begin();
  guest.work();  // its chain and its header stay
  // Entries 1 and up were never written, so they name descriptor 0 as well.
  driver.available_index(guest.queue(), 65);
  driver.kick(guest.queue());
  driver.write(reg::kStatus, 0);
  driver.poke(at::kData, kPattern);
  driver.poke(at::kData + 508, kPattern);
  driver.poke8(at::kStatus, 0x77);
  code.mov_ecx(20);
  const auto wait = code.here();
  code.in_al(0x3fd);
  code.raw({0xff, 0xc9});  // dec ecx
  code.jne(wait);
  guest.expect_word(at::kData, kPattern, "memory was written after the reset");
  guest.expect_word(at::kData + 508, kPattern, "memory was written after the reset");
  guest.expect_byte(at::kStatus, 0x77, "a status was written after the reset");
  code.raw({0xff, 0xce});  // dec esi
  code.jne(again);
}

void any_framing(HostileGuest& guest) {
  GuestDriver& driver = guest.driver();
  guest.begin();
  driver.poke(at::kHeader, 0);
  driver.poke(at::kHeader + 8, 7);
  driver.poke(at::kHeader + 12, 0);
  driver.poke(at::kData, 0);
  driver.poke8(at::kStatus, 0xee);
  guest.chain(0, at::kHeader, 1, kNext, 1);
  guest.chain(1, 0xffffffffffffffff, 0, kNext, 2);  // of no length, so that it may point anywhere
  guest.chain(2, at::kHeader + 1, 15, kNext, 3);
  guest.chain(3, at::kData, 3, kNext | kWrite, 4);
  guest.chain(4, 0, 0, kNext | kWrite, 5);
  guest.chain(5, at::kData + 3, 509, kNext | kWrite, 6);
  guest.chain(6, at::kStatus, 1, kWrite);
  guest.offer();
  guest.expect_answer();
  guest.expect_byte(at::kStatus, 0, "the request's status");
  guest.expect_word(at::kData, kDiskPattern + 7, "the data of a request in pieces");
}

void nowhere_to_answer(HostileGuest& guest) {
  guest.begin();
  guest.chain(0, at::kHeader, 16, 0);
  guest.offer();
  guest.expect_answer();
}

}  // namespace

std::vector<Attack> block_attacks() {
  return {
      request("sector behind the disk", 0, kDiskSectors, 1),
      request("write behind the disk", 1, kDiskSectors, 1, 512, 0),
      request("sector that overflows", 0, 0xffffffffffffffff, 1),
      request("sector whose offset overflows", 0, 1ULL << 55U, 1),
      request("unknown type", 77, 0, 2),
      request("discard, not negotiated", 11, 0, 2),
      request("flush, not negotiated", 4, 0, 2),
      request("part of a sector", 0, 0, 1, 100),
      request("cut header", 0, 0, 1, 512, kWrite, 8),
      request("too small for the serial number", 8, 0, 1, 19),
      request("write from memory to be written", 1, kDiskSectors + 1, 1),
      {.name = "nowhere to answer", .emit = nowhere_to_answer},
      {.name = "header in pieces", .emit = any_framing},
      {.name = "reset in flight", .emit = resets_in_flight},
      {.name = "storm with requests", .emit = storms_with_requests, .until_told = true},
  };
}

std::vector<Attack> net_attacks() {
  return {
      packet("another's address", net_packet(0, 5)),
      packet("offload, not negotiated", net_packet(1, 4)),
      packet("unknown offload", net_packet(0x7f, 4)),
      packet("cut header", std::vector<std::uint8_t>(5)),
      packet("cut frame", std::vector<std::uint8_t>(12 + 13)),
  };
}

std::vector<Attack> vsock_attacks() {
  return {
      packet("another's address", vsock_packet(9, 1, 1)),
      packet("unknown type", vsock_packet(3, 9, 1)),
      packet("unknown operation", vsock_packet(3, 1, 99)),
      packet("data out of state", vsock_packet(3, 1, 5)),
      packet("more than there is", vsock_packet(3, 1, 5, 0xff)),
      packet("cut header", std::vector<std::uint8_t>(43)),
  };
}

}  // namespace mayfly::test
