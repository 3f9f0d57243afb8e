// A guest that breaks its virtio devices in every way it can, as machine code, one attack after the other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/guest_driver.h"
#include "tests/support/virtio_driver.h"

namespace mayfly::test {

inline constexpr std::uint64_t kHostileMemoryMib = 64;
inline constexpr std::uint32_t kHostileMemory = kHostileMemoryMib << 20U;
inline constexpr std::uint32_t kFirstDevice = 0xc0001000;
inline constexpr std::uint16_t kHostileQueueSize = 128;

// The disks of these tests: each double word of a sector says which sector it is.
inline constexpr std::uint32_t kDiskSectors = 64;
inline constexpr std::uint32_t kDiskPattern = 0x5ec00000;

// Where the guest keeps what it needs. The code is below, from 1 MiB.
namespace at {
inline constexpr std::uint32_t kHeader = 0x80a000;
inline constexpr std::uint32_t kData = 0x80b000;
inline constexpr std::uint32_t kStatus = 0x80c000;
inline constexpr std::uint32_t kPacket = 0x80d000;
inline constexpr std::uint32_t kReceived = 0x80e000;
inline constexpr std::uint32_t kIndirect = 0x810000;
inline constexpr std::uint32_t kIndirect2 = 0x811000;
}  // namespace at

class HostileGuest;

// A device to attack. What each attack must lead to is in docs/hostile-guest.md.
struct Target {
  std::string_view name;
  std::uint32_t slot;           // on the bus
  std::uint16_t queue;          // that requests go through
  bool receives;                // by way of queue 0
  void (*work)(HostileGuest&);  // on fresh queues: a valid request, whose answer is checked by the guest
};
extern const Target kBlockTarget, kNetTarget, kVsockTarget;

struct Attack {
  std::string name;
  std::function<void(HostileGuest&)> emit;
  bool until_told = false;  // goes on, saying '#' now and then, until there is a key to read
};

// What the guest tells the host: "FAILED: …\n" and stops, when an answer is not what it expects.
class HostileGuest {
 public:
  // `target`: with its slot in this machine.
  HostileGuest(Code& code, const Target& target);

  Code& code() { return code_; }
  GuestDriver& driver() { return driver_; }
  [[nodiscard]] const GuestQueue& queue() const { return queue_; }
  [[nodiscard]] const GuestQueue& receive_queue() const { return receive_queue_; }

  // From reset to DRIVER_OK with empty queues, INDIRECT_DESC accepted, no interrupt pending.
  void begin(std::uint32_t features = 1U << 28U);
  void begin_on(const GuestQueue& queue, std::uint32_t features = 1U << 28U);
  // Up to FEATURES_OK, with the queue that is not under attack.
  void prepare(std::uint32_t features = 1U << 28U);
  void chain(std::uint32_t index, std::uint64_t address, std::uint32_t length, std::uint16_t flags,
             std::uint16_t next = 0);
  // Makes the chain at descriptor 0 available, as the first, and notifies.
  void offer();
  void work() { target_.work(*this); }

  // The flags are from a comparison that must have been equal.
  void expect_equal(std::string_view what);
  // DEVICE_NEEDS_RESET, a configuration change in InterruptStatus and at the interrupt controller.
  void expect_broken();
  void expect_status(std::uint32_t status);
  // The request on the way is answered and announced.
  void expect_answer(std::uint16_t index = 1);
  void expect_byte(std::uint32_t address, std::uint8_t value, std::string_view what);
  void expect_word(std::uint32_t address, std::uint32_t value, std::string_view what);
  void wait_for_key();
  void wait_for_interrupt();
  // The whole: the attack, a reset, a valid request, the name and the host's leave to go on.
  void perform(const Attack& attack);

 private:
  Code& code_;
  Target target_;
  GuestDriver driver_;
  GuestQueue queue_, receive_queue_;
};

// Against any device.
std::vector<Attack> queue_attacks();
std::vector<Attack> layout_attacks();
std::vector<Attack> transport_attacks();
// Against one.
std::vector<Attack> block_attacks();
std::vector<Attack> net_attacks();
std::vector<Attack> vsock_attacks();

// For a second vCPU, in real mode at kRewriter: rewrites a block request in low memory until it is told to
// stop. change_attack() has the first vCPU submit that request meanwhile.
inline constexpr std::uint32_t kRewriter = 0x8000;
std::vector<std::uint8_t> rewriter_code();
Attack change_attack();

}  // namespace mayfly::test
