// Memory that changes while it is read: one vCPU submits a block request, another rewrites it all the time.
#include "tests/kvm/hostile_guest.h"

namespace mayfly::test {

namespace {

constexpr std::uint32_t kRounds = 400;

// In low memory, where real mode reaches it.
constexpr std::uint32_t kSegment = 0x60000;
constexpr std::uint16_t kDataDescriptor = 0x10;
constexpr std::uint16_t kLowHeader = 0x900;
constexpr std::uint16_t kStop = 0xa00;
constexpr GuestQueue kLowQueue = {
    .index = 0, .size = kHostileQueueSize, .table = kSegment, .available = 0x820000, .used = 0x821000};

class RealModeCode {
 public:
  void raw(std::initializer_list<std::uint8_t> more) { bytes.insert(bytes.end(), more); }
  void le16(std::uint16_t value) {
    raw({static_cast<std::uint8_t>(value), static_cast<std::uint8_t>(value >> 8U)});
  }
  void store32(unsigned place, std::uint32_t value) {  // mov dword [place], value
    raw({0x66, 0xc7, 0x06});
    le16(static_cast<std::uint16_t>(place));
    le16(static_cast<std::uint16_t>(value));
    le16(static_cast<std::uint16_t>(value >> 16U));
  }
  std::vector<std::uint8_t> bytes;
};

constexpr std::uint32_t flags_and_next(std::uint16_t flags, std::uint16_t next) {
  return flags | std::uint32_t{next} << 16U;
}

// INIT and start-up, to APIC 1.
void start_rewriter(HostileGuest& guest) {
  Code& code = guest.code();
  code.place(kRewriter, rewriter_code());
  code.mov_edi(0xfee00000);
  code.store32(0xf0, 0x1ff);  // spurious interrupt vector: the APIC is on
  for (const std::uint32_t command : {0x4500U, 0x4600U | kRewriter >> 12U}) {
    code.store32(0x310, 1U << 24U);
    code.store32(0x300, command);
  }
}

void change_while_read(HostileGuest& guest) {
  Code& code = guest.code();
  GuestDriver& driver = guest.driver();
  driver.poke(kSegment + kLowHeader, 0);
  driver.poke(kSegment + kLowHeader + 8, 5);
  driver.poke(kSegment + kLowHeader + 12, 0);
  driver.poke8(kSegment + kStop, 0);
  driver.descriptor(kSegment, 0, kSegment + kLowHeader, 16, kNext, 1);
  driver.descriptor(kSegment, 1, at::kData, 512, kNext | kWrite, 2);
  driver.descriptor(kSegment, 2, at::kStatus, 1, kWrite);
  start_rewriter(guest);
  code.mov_esi(kRounds);
  const auto again = code.here();
  guest.begin_on(kLowQueue);
  code.raw({0xbb, 0, 0, 0, 0});  // mov ebx, 0
  const auto submit = code.here();
  code.raw({0xff, 0xc3});  // inc ebx
  code.mov_edi(kLowQueue.available);
  code.raw({0x66, 0x89, 0x5f, 0x02});  // mov [rdi + 2], bx
  driver.kick(kLowQueue);
  // Either the request is answered, whatever the answer, or the queue is broken and set up anew. Which, is
  // said for whoever reads the output of a test that failed.
  const auto wait = code.here();
  code.mov_edi(kLowQueue.used);
  code.load_ax(2);
  code.raw({0x66, 0x39, 0xd8});  // cmp ax, bx
  const auto answered = code.je_ahead();
  driver.read(reg::kStatus);
  code.test_al(0x40);
  const auto broken = code.jne_ahead();
  code.jmp(wait);
  code.land(answered);
  code.say("+");
  code.raw({0xff, 0xce});  // dec esi
  code.jne(submit);
  const auto done = code.je_ahead();
  code.land(broken);
  code.say("-");
  code.raw({0xff, 0xce});  // dec esi
  code.jne(again);
  code.land(done);
  driver.poke8(kSegment + kStop, 1);
}

}  // namespace

std::vector<std::uint8_t> rewriter_code() {
  RealModeCode code;
  code.raw({0xb8, 0x00, kSegment >> 12U, 0x8e, 0xd8});  // mov ax, segment; mov ds, ax
  const auto start = code.bytes.size();
  constexpr std::uint32_t kGoodFlags = flags_and_next(kNext | kWrite, 2);
  struct Change {
    unsigned place;
    std::uint32_t bad;
    std::uint32_t good;
  };
  for (const Change& change : {
           Change{kDataDescriptor, 0xfffff000, at::kData},                               // address
           Change{kDataDescriptor, kFirstDevice, at::kData},                             //
           Change{kDataDescriptor + 4, 0xffffffff, 0},                                   // its upper half
           Change{kDataDescriptor + 8, 0xffffffff, 512},                                 // length
           Change{kDataDescriptor + 8, 0, 512},                                          //
           Change{kDataDescriptor + 12, flags_and_next(kNext | kWrite, 1), kGoodFlags},  // a loop
           Change{kDataDescriptor + 12, flags_and_next(kNext | kWrite, 0xffff), kGoodFlags},
           Change{kDataDescriptor + 12, flags_and_next(4, 0), kGoodFlags},  // an indirect table
           Change{kLowHeader, 77, 0},                                       // type
           Change{kLowHeader + 8, 0xffffffff, 5},                           // sector
       }) {
    code.store32(change.place, change.bad);
    code.store32(change.place, change.good);
  }
  code.raw({0x80, 0x3e});  // cmp byte [kStop], 0
  code.le16(kStop);
  code.raw({0x00});
  code.raw({0x0f, 0x84});  // je start
  code.le16(static_cast<std::uint16_t>(start - (code.bytes.size() + 2)));
  code.raw({0xf4, 0xeb, 0xfd});  // hlt; jmp to it
  return code.bytes;
}

Attack change_attack() {
  return {.name = "memory that changes while it is read", .emit = change_while_read};
}

}  // namespace mayfly::test
