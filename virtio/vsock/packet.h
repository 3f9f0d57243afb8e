// Packets of the virtio socket device (virtio 1.2, section 5.10.6).
#pragma once

#include <cstdint>

#include "base/endian.h"

namespace mayfly::virtio::vsock {

inline constexpr std::uint32_t kHostCid = 2;

// Section 5.10.6.2: socket types.
inline constexpr std::uint16_t kTypeStream = 1;

// Section 5.10.6: operations, with the specification's numbers.
enum class Op : std::uint16_t {
  kInvalid = 0,
  kRequest = 1,
  kResponse = 2,
  kRst = 3,
  kShutdown = 4,
  kRw = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

// Section 5.10.6.6: flags of SHUTDOWN. Each says what its sender does no more.
inline constexpr std::uint32_t kShutdownReceive = 1;
inline constexpr std::uint32_t kShutdownSend = 2;
inline constexpr std::uint32_t kShutdownBoth = kShutdownReceive | kShutdownSend;

// No packet of ours or the guest's carries more. Linux uses the same number.
inline constexpr std::uint32_t kMaxPayload = 64U << 10U;

// Section 5.10.6.1: the upper 32 bits of a CID are reserved and zero. They are fields of their own here
// because the header is 44 bytes, which is no multiple of a 64-bit field's alignment.
struct Header {
  base::Le32 src_cid;
  base::Le32 src_cid_reserved;
  base::Le32 dst_cid;
  base::Le32 dst_cid_reserved;
  base::Le32 src_port;
  base::Le32 dst_port;
  base::Le32 len;
  base::Le16 type;
  base::Le16 op;
  base::Le32 flags;
  base::Le32 buf_alloc;
  base::Le32 fwd_cnt;
};
static_assert(sizeof(Header) == 44 && base::Wire<Header>);

inline Op op_of(const Header& header) {
  return static_cast<Op>(static_cast<std::uint16_t>(header.op));
}

// What to do with a packet by its header alone, before any connection is looked up.
enum class Verdict : std::uint8_t {
  kServe,
  kRefuse,  // answer with RST
  kDrop,    // no answer: the sender is not who it says, or the packet is an RST itself
};

// `payload`: bytes of the chain behind the header. A chain that is longer than the packet is allowed.
Verdict judge(const Header& header, std::uint32_t guest_cid, std::uint64_t payload);

// The RST that answers a packet: the same addresses and type, turned round.
Header reset_for(const Header& packet);

}  // namespace mayfly::virtio::vsock
