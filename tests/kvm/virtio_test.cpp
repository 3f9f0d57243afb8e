// A guest of a few instructions drives a virtio block device: every register and ring byte is written by code
// that runs in KVM, the doorbell is an ioeventfd.
#include <atomic>
#include <catch2/catch.hpp>
#include <semaphore>
#include <thread>

#include "tests/support/guest_driver.h"
#include "tests/support/require_kvm.h"
#include "tests/support/tiny_machine.h"
#include "vmm/x86_64/layout.h"

using namespace mayfly;
using namespace mayfly::test;
using vmm::ExitReason;

namespace {

constexpr std::uint32_t kDevice = 0xc0001000;
constexpr std::uint32_t kDescriptors = 0x180000;
constexpr std::uint32_t kAvailable = 0x181000;
constexpr std::uint32_t kUsed = 0x182000;
constexpr std::uint32_t kHeader = 0x183000;
constexpr std::uint32_t kData = 0x184000;
constexpr std::uint32_t kStatus = 0x185000;
constexpr std::uint16_t kQueueSize = 8;

constexpr std::uint32_t kNext = 1;
constexpr std::uint32_t kWrite = 2;

constexpr GuestQueue kQueue = {
    .index = 0, .size = kQueueSize, .table = kDescriptors, .available = kAvailable, .used = kUsed};

// Flags in the lower half, the next descriptor in the upper.
void descriptor(Code& code, std::uint32_t index, std::uint32_t address, std::uint32_t length,
                std::uint32_t flags_and_next) {
  GuestDriver(code, kDevice)
      .descriptor(kDescriptors, index, address, length, static_cast<std::uint16_t>(flags_and_next),
                  static_cast<std::uint16_t>(flags_and_next >> 16U));
}

constexpr std::uint32_t reg32(std::uint64_t offset) {
  return static_cast<std::uint32_t>(offset);
}

// From reset to DRIVER_OK with queue 0, accepting VERSION_1 alone.
void initialise(Code& code) {
  code.map_devices();
  GuestDriver driver(code, kDevice);
  driver.negotiate(0);
  driver.set_queue(kQueue);
  driver.go();
}

// Makes the chain at descriptor 0 available, as the first, and rings.
void submit_first(Code& code) {
  GuestDriver driver(code, kDevice);
  driver.available_entry(kQueue, 0, 0);
  driver.available_index(kQueue, 1);
  driver.kick(kQueue);
}

void wait_for_first(Code& code) {
  GuestDriver(code, kDevice).wait_used(kQueue, 1);
}

// Says the bytes at [address, address + count).
void say_bytes(Code& code, std::uint32_t address, std::uint32_t count) {
  code.mov_edi(address);
  for (std::uint32_t i = 0; i < count; ++i) {
    code.load_al(i);
    code.say_al();
  }
}

std::string disk_content() {
  std::string content(4096, '.');
  content.replace(1024, 11, "sector two!");
  return content;
}

void add_disk(vmm::VmConfig& config, const TemporaryFolder& folder) {
  vmm::DriveConfig& drive = config.drives.emplace_back();
  drive.block.id = "disk";
  drive.block.path = folder.file("disk", disk_content());
}

}  // namespace

TEST_CASE("a guest finds the device and reads its configuration") {
  if (!have_kvm()) return;
  Code code;
  code.map_devices();
  code.mov_edi(kDevice);
  // Magic "virt", and the low bytes of version, device ID and capacity as digits.
  code.load_eax(reg32(reg::kMagicValue));
  for (int i = 0; i < 4; ++i) {
    code.say_al();
    code.raw({0xc1, 0xe8, 0x08});  // shr eax, 8
  }
  for (const std::uint64_t offset : {reg::kVersion, reg::kDeviceId, reg::kConfig}) {
    code.load_eax(reg32(offset));
    code.raw({0x04, '0'});  // add al, '0'
    code.say_al();
  }
  code.reset();
  code.stop();
  TemporaryFolder folder;
  TinyMachine machine(code, [&](vmm::VmConfig& config) { add_disk(config, folder); });
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "virt228");
}

TEST_CASE("a guest reads a sector through a queue") {
  if (!have_kvm()) return;
  Code code;
  initialise(code);
  code.mov_edi(kHeader);
  code.store32(0, 0);  // VIRTIO_BLK_T_IN
  code.store32(4, 0);
  code.store32(8, 2);  // sector
  code.store32(12, 0);
  code.mov_edi(kStatus);
  code.store8(0, 0xee);
  descriptor(code, 0, kHeader, 16, kNext | (1U << 16U));
  descriptor(code, 1, kData, 512, kNext | kWrite | (2U << 16U));
  descriptor(code, 2, kStatus, 1, kWrite);
  submit_first(code);
  wait_for_first(code);
  say_bytes(code, kData, 11);
  code.mov_edi(kStatus);
  code.load_al(0);
  code.raw({0x04, '0'});  // add al, '0'
  code.say_al();
  code.reset();
  code.stop();
  TemporaryFolder folder;
  TinyMachine machine(code, [&](vmm::VmConfig& config) { add_disk(config, folder); });
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "sector two!0");
}

TEST_CASE("a doorbell that rings in a paused machine is answered after it") {
  if (!have_kvm()) return;
  Code code;
  initialise(code);
  code.mov_edi(kHeader);
  code.store32(0, 0);
  code.store32(4, 0);
  code.store32(8, 2);
  code.store32(12, 0);
  descriptor(code, 0, kHeader, 16, kNext | (1U << 16U));
  descriptor(code, 1, kData, 512, kNext | kWrite | (2U << 16U));
  descriptor(code, 2, kStatus, 1, kWrite);
  code.mov_rdi(vmm::x86_64::kBootTimer.value());
  code.store8(0, 123);
  submit_first(code);
  code.say("!");
  wait_for_first(code);
  say_bytes(code, kData, 11);
  code.reset();
  code.stop();
  TemporaryFolder folder;
  // The guest waits at the boot timer: the loop has to run until the device is started, and not from then on.
  std::atomic<bool> started = false;
  std::binary_semaphore go_on(0);
  TinyMachine machine(code, [&](vmm::VmConfig& config) {
    add_disk(config, folder);
    config.boot_timer = true;
    config.on_guest_ready = [&] {
      started = true;
      go_on.acquire();
    };
  });
  machine.start();
  machine.run_until([&] { return started.load(); });
  go_on.release();
  // The loop does not run between this and the pause, so nobody answers the doorbell before.
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  REQUIRE(machine->pause().has_value());
  machine.run_for(std::chrono::milliseconds(20));
  CHECK(machine.output().find("sector") == std::string::npos);
  REQUIRE(machine->resume().has_value());
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "!sector two!");
}

TEST_CASE(
    "a queue that is broken from the start leaves the machine alive and the device in need of a reset") {
  if (!have_kvm()) return;
  Code code;
  initialise(code);
  descriptor(code, 0, 0xfffff000, 0xffffffff, kWrite);  // outside memory
  submit_first(code);
  code.mov_edi(kDevice);
  const auto wait = code.here();
  code.load_eax(reg32(reg::kStatus));
  code.test_al(0x40);  // DEVICE_NEEDS_RESET
  code.je(wait);
  code.say("needs reset");
  code.store32(reg32(reg::kStatus), 0);
  code.reset();
  code.stop();
  TemporaryFolder folder;
  TinyMachine machine(code, [&](vmm::VmConfig& config) { add_disk(config, folder); });
  machine.start();
  CHECK(machine.run_to_end().reason == ExitReason::kReset);
  CHECK(machine.output() == "needs reset");
}
