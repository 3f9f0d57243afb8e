#include "virtio/vsock/packet.h"

namespace mayfly::virtio::vsock {

namespace {

bool known(Op op) {
  return op >= Op::kRequest && op <= Op::kCreditRequest;
}

bool well_formed(const Header& header, std::uint64_t payload) {
  if (header.dst_cid != kHostCid || header.dst_cid_reserved != 0) return false;
  // Section 5.10.6.4.2: an unknown type is answered with RST.
  if (header.type != kTypeStream) return false;
  return known(op_of(header)) && header.len <= kMaxPayload && header.len <= payload;
}

}  // namespace

Verdict judge(const Header& header, std::uint32_t guest_cid, std::uint64_t payload) {
  if (header.src_cid != guest_cid || header.src_cid_reserved != 0) return Verdict::kDrop;
  if (well_formed(header, payload)) return Verdict::kServe;
  // Two ends that answer RST with RST would never stop.
  return op_of(header) == Op::kRst ? Verdict::kDrop : Verdict::kRefuse;
}

Header reset_for(const Header& packet) {
  Header reset{};
  reset.src_cid = packet.dst_cid;
  reset.src_cid_reserved = packet.dst_cid_reserved;
  reset.dst_cid = packet.src_cid;
  reset.dst_cid_reserved = packet.src_cid_reserved;
  reset.src_port = packet.dst_port;
  reset.dst_port = packet.src_port;
  reset.type = packet.type;
  reset.op = static_cast<std::uint16_t>(Op::kRst);
  return reset;
}

}  // namespace mayfly::virtio::vsock
