#include "tests/kvm/hostile_guest.h"

namespace mayfly::test {

namespace {

constexpr GuestQueue queue_at(std::uint16_t index, std::uint32_t address) {
  return {.index = index,
          .size = kHostileQueueSize,
          .table = address,
          .available = address + 0x1000,
          .used = address + 0x2000};
}

// Reads sector 5.
void block_work(HostileGuest& guest) {
  GuestDriver& driver = guest.driver();
  driver.poke(at::kHeader, 0);
  driver.poke(at::kHeader + 8, 5);
  driver.poke(at::kHeader + 12, 0);
  driver.poke(at::kData, 0);
  driver.poke8(at::kStatus, 0xee);
  guest.chain(0, at::kHeader, 16, kNext, 1);
  guest.chain(1, at::kData, 512, kNext | kWrite, 2);
  guest.chain(2, at::kStatus, 1, kWrite);
  guest.offer();
  guest.expect_answer();
  guest.expect_byte(at::kStatus, 0, "a read after it: status");
  guest.expect_word(at::kData, kDiskPattern + 5, "a read after it: data");
}

// Sends a frame of its own.
void net_work(HostileGuest& guest) {
  // No offloads, to all, from the guest's own address.
  std::vector<std::uint8_t> packet = {0,    0,    0,    0,    0,    0,    0,    0,   0, 0, 0, 0,  //
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff,                         //
                                      0x02, 0xfe, 1,    2,    3,    4,    0x88, 0xb5};
  packet.resize(12 + 60, 'g');
  guest.code().place(at::kPacket, packet);
  guest.chain(0, at::kPacket, static_cast<std::uint32_t>(packet.size()), 0);
  guest.offer();
  guest.expect_answer();
}

// Asks for a connection to a port that nobody listens on.
void vsock_work(HostileGuest& guest) {
  GuestDriver& driver = guest.driver();
  const GuestQueue& receive = guest.receive_queue();
  driver.descriptor(receive.table, 0, at::kReceived, 4096, kWrite);
  driver.available_entry(receive, 0, 0);
  driver.available_index(receive, 1);
  constexpr std::uint32_t kRequest = 1 | 1U << 16U;  // a stream, REQUEST
  std::uint32_t offset = 0;
  for (const std::uint32_t word : {3U, 0U, 2U, 0U, 1000U, 9999U, 0U, kRequest, 0U, 65536U, 0U}) {
    driver.poke(at::kPacket + offset, word);
    offset += 4;
  }
  driver.poke(at::kReceived + 28, 0);
  guest.chain(0, at::kPacket, 44, 0);
  guest.offer();
  guest.expect_answer();
  driver.wait_used(receive, 1);
  constexpr std::uint32_t kReset = 1 | 3U << 16U;
  guest.expect_word(at::kReceived + 28, kReset, "a connection after it");
}

}  // namespace

const Target kBlockTarget = {"block", 0, 0, false, block_work};
const Target kNetTarget = {"net", 0, 1, true, net_work};
const Target kVsockTarget = {"vsock", 0, 1, true, vsock_work};

HostileGuest::HostileGuest(Code& code, const Target& target)
    : code_(code),
      target_(target),
      driver_(code, kFirstDevice + target.slot * 0x1000),
      queue_(queue_at(target.queue, 0x800000)),
      receive_queue_(queue_at(0, 0x804000)) {}

void HostileGuest::prepare(std::uint32_t features) {
  driver_.negotiate(features);
  if (!target_.receives) return;
  driver_.clear(receive_queue_);
  driver_.set_queue(receive_queue_);
}

void HostileGuest::begin(std::uint32_t features) {
  begin_on(queue_, features);
}

void HostileGuest::begin_on(const GuestQueue& queue, std::uint32_t features) {
  code_.out(0x20, 0x11);  // ICW1: the interrupt controller forgets its edges
  prepare(features);
  driver_.clear(queue);
  driver_.set_queue(queue);
  driver_.go();
}

void HostileGuest::chain(std::uint32_t index, std::uint64_t address, std::uint32_t length,
                         std::uint16_t flags, std::uint16_t next) {
  driver_.descriptor(queue_.table, index, address, length, flags, next);
}

void HostileGuest::offer() {
  driver_.available_entry(queue_, 0, 0);
  driver_.available_index(queue_, 1);
  driver_.kick(queue_);
}

void HostileGuest::expect_equal(std::string_view what) {
  const auto right = code_.je_ahead();
  code_.say("FAILED: ");
  code_.say(what);
  code_.say("\n");
  code_.stop();
  code_.land(right);
}

void HostileGuest::wait_for_interrupt() {
  code_.out(0x20, 0x0a);  // OCW3: reads give what is requested
  const auto wait = code_.here();
  code_.in_al(0x20);
  code_.test_al(static_cast<std::uint8_t>(1U << (5 + target_.slot)));
  code_.je(wait);
}

void HostileGuest::expect_broken() {
  const auto wait = code_.here();
  driver_.read(reg::kStatus);
  code_.test_al(0x40);
  code_.je(wait);
  wait_for_interrupt();
  driver_.read(reg::kInterruptStatus);
  code_.raw({0x24, 0x02});  // and al, 2
  code_.cmp_al(2);
  expect_equal("no configuration change");
}

void HostileGuest::expect_status(std::uint32_t status) {
  driver_.read(reg::kStatus);
  code_.cmp_eax(status);
  expect_equal("status");
}

void HostileGuest::expect_answer(std::uint16_t index) {
  driver_.wait_used(queue_, index);
  wait_for_interrupt();
}

void HostileGuest::expect_byte(std::uint32_t address, std::uint8_t value, std::string_view what) {
  code_.mov_edi(address);
  code_.load_al(0);
  code_.cmp_al(value);
  expect_equal(what);
}

void HostileGuest::expect_word(std::uint32_t address, std::uint32_t value, std::string_view what) {
  driver_.peek(address);
  code_.cmp_eax(value);
  expect_equal(what);
}

void HostileGuest::wait_for_key() {
  const auto wait = code_.here();
  code_.in_al(0x3fd);
  code_.test_al(0x01);
  code_.je(wait);
  code_.in_al(0x3f8);
}

void HostileGuest::perform(const Attack& attack) {
  attack.emit(*this);
  driver_.write(reg::kStatus, 0);
  expect_status(0);
  begin();
  work();
  driver_.write(reg::kStatus, 0);
  code_.say(attack.name);
  code_.say("\n");
  wait_for_key();
}

}  // namespace mayfly::test
