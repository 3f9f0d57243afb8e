#include <catch2/catch.hpp>

#include "tests/unit/vsock/guest.h"
#include "virtio/vsock/packet.h"

namespace mayfly::test {

using vsock::Header;
using vsock::judge;
using vsock::Op;
using vsock::Verdict;

namespace {

Header valid(Op op = Op::kRw, std::uint32_t length = 0) {
  return guest_header(op, 1000, 52, length);
}

}  // namespace

TEST_CASE("A well-formed packet is served, also in a longer chain") {
  CHECK(judge(valid(Op::kRw, 100), kGuestCid, 100) == Verdict::kServe);
  CHECK(judge(valid(Op::kRw, 100), kGuestCid, 4096) == Verdict::kServe);
  CHECK(judge(valid(Op::kRw, vsock::kMaxPayload), kGuestCid, vsock::kMaxPayload) == Verdict::kServe);
  for (std::uint16_t op = 1; op <= 7; ++op) {
    CHECK(judge(valid(static_cast<Op>(op)), kGuestCid, 0) == Verdict::kServe);
  }
}

TEST_CASE("A length that the chain does not hold, or above 64 KiB, is refused") {
  CHECK(judge(valid(Op::kRw, 101), kGuestCid, 100) == Verdict::kRefuse);
  CHECK(judge(valid(Op::kRw, vsock::kMaxPayload + 1), kGuestCid, 1U << 20U) == Verdict::kRefuse);
  CHECK(judge(valid(Op::kRw, 0xffffffff), kGuestCid, 0xffffffff) == Verdict::kRefuse);
}

TEST_CASE("An unknown operation or type is refused") {
  CHECK(judge(valid(Op::kInvalid), kGuestCid, 0) == Verdict::kRefuse);
  CHECK(judge(valid(static_cast<Op>(8)), kGuestCid, 0) == Verdict::kRefuse);
  CHECK(judge(valid(static_cast<Op>(0xffff)), kGuestCid, 0) == Verdict::kRefuse);
  Header header = valid();
  header.type = 2;  // SEQPACKET, which was not offered
  CHECK(judge(header, kGuestCid, 0) == Verdict::kRefuse);
}

TEST_CASE("A packet to anyone but the host is refused") {
  Header header = valid();
  header.dst_cid = 3;
  CHECK(judge(header, kGuestCid, 0) == Verdict::kRefuse);
  header = valid();
  header.dst_cid_reserved = 1;
  CHECK(judge(header, kGuestCid, 0) == Verdict::kRefuse);
}

TEST_CASE("A packet from another's address is dropped") {
  Header header = valid();
  header.src_cid = kGuestCid + 1;
  CHECK(judge(header, kGuestCid, 0) == Verdict::kDrop);
  header = valid();
  header.src_cid_reserved = 1;
  CHECK(judge(header, kGuestCid, 0) == Verdict::kDrop);
}

TEST_CASE("RST is never the answer to RST") {
  Header header = valid(Op::kRst);
  header.type = 9;
  CHECK(judge(header, kGuestCid, 0) == Verdict::kDrop);
  CHECK(judge(valid(Op::kRst, 5), kGuestCid, 0) == Verdict::kDrop);
}

TEST_CASE("An RST goes back to where the packet came from") {
  Header header = valid(Op::kRw, 7);
  header.dst_cid = 9;
  header.type = 2;
  const Header reset = vsock::reset_for(header);
  CHECK(vsock::op_of(reset) == Op::kRst);
  CHECK(reset.src_cid == 9);
  CHECK(reset.dst_cid == kGuestCid);
  CHECK(reset.src_port == 52);
  CHECK(reset.dst_port == 1000);
  CHECK(reset.type == 2);
  CHECK(reset.len == 0);
}

}  // namespace mayfly::test
