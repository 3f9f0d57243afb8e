// The attacks that any device has to withstand: on its queues, their layout, its registers.
#include <utility>

#include "tests/kvm/hostile_guest.h"

namespace mayfly::test {

namespace {

constexpr std::uint32_t kNothingAccepted = 0;

// Descriptors that no device may follow: the queue is broken.
Attack breaks(std::string name, std::function<void(HostileGuest&)> chain) {
  return {.name = std::move(name), .emit = [chain = std::move(chain)](HostileGuest& guest) {
            guest.begin();
            chain(guest);
            guest.offer();
            guest.expect_broken();
          }};
}

Attack buffer(std::string name, std::uint64_t address, std::uint32_t length) {
  return breaks(std::move(name), [=](HostileGuest& guest) { guest.chain(0, address, length, 0); });
}

Attack table(std::string name, std::uint64_t address, std::uint32_t length, std::uint16_t flags = kIndirect) {
  return breaks(std::move(name), [=](HostileGuest& guest) { guest.chain(0, address, length, flags, 1); });
}

Attack layout(std::string name, std::function<void(GuestQueue&)> change, std::uint32_t high = 0) {
  return {.name = std::move(name), .emit = [=](HostileGuest& guest) {
            GuestQueue queue = guest.queue();
            change(queue);
            guest.code().out(0x20, 0x11);
            guest.prepare();
            GuestDriver& driver = guest.driver();
            driver.write(reg::kQueueSel, queue.index);
            driver.write(reg::kQueueDescHigh, high);
            driver.set_queue(queue);
            driver.go();
            guest.expect_broken();
          }};
}

void two_to_the_32(HostileGuest& guest) {
  constexpr std::uint32_t kCount = 64;  // of the whole memory each
  static_assert(std::uint64_t{kCount} * kHostileMemory == 1ULL << 32U);
  for (std::uint32_t i = 0; i < kCount; ++i) {
    const bool last = i + 1 == kCount;
    guest.chain(i, 0, kHostileMemory, last ? 0 : kNext, static_cast<std::uint16_t>(i + 1));
  }
}

void goes_backwards(HostileGuest& guest) {
  guest.begin();
  guest.work();
  guest.code().out(0x20, 0x11);
  guest.driver().available_index(guest.queue(), 0);
  guest.driver().kick(guest.queue());
  guest.expect_broken();
}

void refused_features(HostileGuest& guest, std::uint32_t selector, std::uint32_t bits, bool version_1) {
  GuestDriver& driver = guest.driver();
  for (const std::uint32_t status : {0U, 1U, 3U}) driver.write(reg::kStatus, status);
  driver.write(reg::kDriverFeaturesSel, 1);
  driver.write(reg::kDriverFeatures, version_1 ? 1 : 0);
  driver.write(reg::kDriverFeaturesSel, selector);
  driver.write(reg::kDriverFeatures, bits);
  driver.write(reg::kStatus, 11);
  guest.expect_status(3);
  driver.write(reg::kStatus, 15);
  guest.expect_status(3);
}

void sets_up_while_live(HostileGuest& guest) {
  guest.begin();
  GuestDriver& driver = guest.driver();
  driver.write(reg::kQueueSel, guest.queue().index);
  for (const auto offset : {reg::kQueueNum, reg::kQueueDescLow, reg::kQueueDescHigh, reg::kQueueDriverLow,
                            reg::kQueueDriverHigh, reg::kQueueDeviceLow, reg::kQueueDeviceHigh}) {
    driver.write(offset, 16);
  }
  driver.write(reg::kQueueReady, 0);
  driver.read(reg::kQueueReady);
  guest.code().cmp_eax(1);
  guest.expect_equal("the queue is not ready any more");
  driver.write(reg::kDriverFeatures, 0xffffffff);
  guest.work();
}

void status_out_of_turn(HostileGuest& guest) {
  GuestDriver& driver = guest.driver();
  driver.write(reg::kStatus, 0);
  driver.write(reg::kStatus, 15);
  guest.expect_status(0);
  guest.begin();
  driver.write(reg::kStatus, 3);
  driver.write(reg::kStatus, 0xffffff7f);
  guest.expect_status(15);
  guest.work();
}

void writes_configuration(HostileGuest& guest) {
  guest.begin();
  Code& code = guest.code();
  GuestDriver& driver = guest.driver();
  driver.read(reg::kConfig);
  code.raw({0x89, 0xc3});  // mov ebx, eax
  driver.write(reg::kConfig, 0xffffffff);
  code.store8(1, 0xff);
  code.store16(2, 0xffff);
  code.store32(0xef8, 0xffffffff);  // the end of the page
  driver.read(reg::kConfig);
  code.raw({0x39, 0xd8});  // cmp eax, ebx
  guest.expect_equal("the configuration changed");
  guest.work();
}

void writes_anywhere(HostileGuest& guest) {
  guest.begin();
  Code& code = guest.code();
  guest.driver().write(reg::kMagicValue, 0);
  for (std::uint32_t offset = 1; offset < 0x100; offset += 2) code.store8(offset, 0);
  for (std::uint32_t offset = 2; offset < 0x100; offset += 4) code.store16(offset, 0);
  code.store8(0x70, 0);
  guest.work();
}

void notifies_nobody(HostileGuest& guest) {
  guest.begin();
  for (const std::uint32_t index : {2U, 3U, 0x80U, 0xffffU, 0x10000U, 0xffffffffU}) {
    guest.driver().write(reg::kQueueNotify, index);
  }
  guest.code().store16(0, 0);
  guest.work();
}

void gives_up(HostileGuest& guest) {
  guest.begin();
  guest.driver().write(reg::kStatus, 15 | 0x80);
  guest.driver().kick(guest.queue());
  guest.expect_status(15 | 0x80);
}

void storms(HostileGuest& guest) {
  guest.begin();
  Code& code = guest.code();
  const auto again = code.here();
  code.mov_ecx(256);
  const auto kick = code.here();
  guest.driver().kick(guest.queue());
  code.raw({0xff, 0xc9});  // dec ecx
  code.jne(kick);
  guest.driver().write(reg::kQueueNotify, 77);
  code.say("#");
  code.in_al(0x3fd);
  code.test_al(0x01);
  code.je(again);
  code.in_al(0x3f8);
  guest.work();
}

}  // namespace

std::vector<Attack> queue_attacks() {
  return {
      breaks("loop",
             [](HostileGuest& guest) {
               guest.chain(0, at::kData, 0, kNext, 1);
               guest.chain(1, at::kData, 0, kNext, 0);
             }),
      breaks("loop onto itself", [](HostileGuest& guest) { guest.chain(0, at::kData, 16, kNext, 0); }),
      breaks("next outside the table",
             [](HostileGuest& guest) { guest.chain(0, at::kData, 16, kNext, kHostileQueueSize); }),
      {.name = "head outside the table",
       .emit =
           [](HostileGuest& guest) {
             guest.begin();
             guest.driver().available_entry(guest.queue(), 0, 0xffff);
             guest.driver().available_index(guest.queue(), 1);
             guest.driver().kick(guest.queue());
             guest.expect_broken();
           }},
      buffer("buffer behind memory", kHostileMemory, 16),
      buffer("buffer over the end of memory", kHostileMemory - 8, 16),
      buffer("buffer on the device itself", kFirstDevice, 256),
      buffer("buffer whose end overflows", 0xffffffffffffff00, 0x1000),
      buffer("buffer of 4 GiB", 0, 0xffffffff),
      breaks("2^32 bytes", two_to_the_32),
      breaks("readable after writable",
             [](HostileGuest& guest) {
               guest.chain(0, at::kData, 16, kNext | kWrite, 1);
               guest.chain(1, at::kData, 16, 0);
             }),
      {.name = "index ahead",
       .emit =
           [](HostileGuest& guest) {
             guest.begin();
             guest.driver().available_index(guest.queue(), kHostileQueueSize + 1);
             guest.driver().kick(guest.queue());
             guest.expect_broken();
           }},
      {.name = "index backwards", .emit = goes_backwards},
      breaks("indirect in indirect",
             [](HostileGuest& guest) {
               guest.driver().descriptor(at::kIndirect, 0, at::kIndirect2, 16, kIndirect);
               guest.chain(0, at::kIndirect, 16, kIndirect);
             }),
      breaks("indirect loop",
             [](HostileGuest& guest) {
               guest.driver().descriptor(at::kIndirect, 0, at::kData, 0, kNext, 0);
               guest.chain(0, at::kIndirect, 16, kIndirect);
             }),
      {.name = "indirect, not negotiated",
       .emit =
           [](HostileGuest& guest) {
             guest.begin(kNothingAccepted);
             guest.driver().descriptor(at::kIndirect, 0, at::kData, 16, 0);
             guest.chain(0, at::kIndirect, 16, kIndirect);
             guest.offer();
             guest.expect_broken();
           }},
      table("indirect of no length", at::kIndirect, 0),
      table("indirect that is cut", at::kIndirect, 17),
      table("indirect of 4 GiB", at::kIndirect, 0xfffffff0),
      table("indirect behind memory", kHostileMemory, 16),
      table("indirect whose end overflows", 0xfffffffffffffff0, 32),
      table("indirect with a next", at::kIndirect, 16, kIndirect | kNext),
  };
}

std::vector<Attack> layout_attacks() {
  return {
      layout("available ring over the table", [](GuestQueue& queue) { queue.available = queue.table + 16; }),
      layout("used ring over the available ring", [](GuestQueue& queue) { queue.used = queue.available; }),
      layout("table that is misaligned", [](GuestQueue& queue) { queue.table += 8; }),
      layout("available ring that is misaligned", [](GuestQueue& queue) { ++queue.available; }),
      layout("used ring that is misaligned", [](GuestQueue& queue) { queue.used += 2; }),
      layout("used ring over the end of memory", [](GuestQueue& queue) { queue.used = kHostileMemory - 8; }),
      layout("rings on the device", [](GuestQueue& queue) { queue.used = kFirstDevice; }),
      layout(
          "table at the end of all addresses", [](GuestQueue& queue) { queue.table = 0xfffffff0; },
          0xffffffff),
  };
}

std::vector<Attack> transport_attacks() {
  return {
      {.name = "features never offered",
       .emit = [](HostileGuest& guest) { refused_features(guest, 0, 0xffffffff, true); }},
      {.name = "features beyond all",
       .emit = [](HostileGuest& guest) { refused_features(guest, 2, 1, true); }},
      {.name = "no version 1", .emit = [](HostileGuest& guest) { refused_features(guest, 0, 0, false); }},
      {.name = "set-up while live", .emit = sets_up_while_live},
      {.name = "status out of turn", .emit = status_out_of_turn},
      {.name = "configuration writes", .emit = writes_configuration},
      {.name = "writes anywhere", .emit = writes_anywhere},
      {.name = "notifications for nobody", .emit = notifies_nobody},
      {.name = "driver that gives up", .emit = gives_up},
      {.name = "notification storm", .emit = storms, .until_told = true},
  };
}

}  // namespace mayfly::test
