#include "virtio/vsock/connection.h"

namespace mayfly::virtio::vsock {

Connection Connection::requested_by_guest(const Header& request) {
  Connection connection(request.src_cid, {.host = request.dst_port, .guest = request.src_port},
                        Phase::kResponseOwed);
  connection.take_credit(request);
  return connection;
}

Connection Connection::requested_by_host(std::uint32_t guest_cid, Ports ports) {
  return {guest_cid, ports, Phase::kRequestOwed};
}

Connection::Action Connection::receive(const Header& header) {
  const Op op = op_of(header);
  if (op == Op::kRst) return Action::kReset;
  // Section 5.10.6.3: every packet but RST carries the sender's credit.
  take_credit(header);
  switch (op) {
    case Op::kResponse:
      if (phase_ != Phase::kRequested) return Action::kViolation;
      phase_ = Phase::kOpen;
      return Action::kEstablished;
    case Op::kRw:
      return receive_data(header.len);
    case Op::kShutdown:
      return receive_shutdown(header.flags);
    case Op::kCreditUpdate:
      return Action::kNone;
    case Op::kCreditRequest:
      update_asked_ = true;
      return Action::kNone;
    default:
      return Action::kViolation;  // REQUEST for a connection that exists
  }
}

Connection::Action Connection::receive_data(std::uint32_t len) {
  if (!open() || !guest_sends_) return Action::kViolation;
  // Section 5.10.6.3: the guest must not send more than buf_alloc allows. What it knows of fwd_cnt can only
  // be older than what we know, so a driver that keeps the rule never meets this line.
  if (len > kBufferSize - buffered()) return Action::kViolation;
  received_ += len;
  return Action::kDeliver;
}

Connection::Action Connection::receive_shutdown(std::uint32_t flags) {
  if (!open()) return Action::kViolation;
  // Section 5.10.6.6: what was said stays said; a later packet without the bit does not take it back.
  if ((flags & kShutdownSend) != 0) guest_sends_ = false;
  if ((flags & kShutdownReceive) != 0) guest_receives_ = false;
  return !guest_sends_ && !guest_receives_ ? Action::kClosed : Action::kHalfClosed;
}

void Connection::take_credit(const Header& header) {
  guest_buf_alloc_ = header.buf_alloc;
  guest_fwd_cnt_ = header.fwd_cnt;
  if (guest_room() > 0) credit_asked_ = credit_request_owed_ = false;
}

std::uint32_t Connection::guest_room() const {
  const std::uint32_t under_way = sent_ - guest_fwd_cnt_;
  return under_way >= guest_buf_alloc_ ? 0 : guest_buf_alloc_ - under_way;
}

std::uint32_t Connection::sendable() const {
  return open() && guest_receives_ && host_writes_ ? guest_room() : 0;
}

void Connection::host_has_bytes() {
  if (!open() || !guest_receives_ || !host_writes_ || guest_room() > 0 || credit_asked_) return;
  credit_asked_ = credit_request_owed_ = true;
}

// A direction is over when either end gave it up; once both are, the guest is told so with one SHUTDOWN of
// both flags, which a driver answers with RST. Until then it is told what the host peer did.
std::uint32_t Connection::wanted_shutdown() const {
  const bool to_guest_over = !host_writes_ || !guest_receives_;
  const bool to_host_over = !host_reads_ || (!guest_sends_ && buffered() == 0);
  if (to_guest_over && to_host_over) return kShutdownBoth;
  return (host_writes_ ? 0 : kShutdownSend) | (host_reads_ ? 0 : kShutdownReceive);
}

bool Connection::owes_credit_update() const {
  if (!guest_sends_ || !host_reads_) return false;
  if (update_asked_) return true;
  // As far as the guest knows it may send this much more; tell it in time, but not at every byte.
  const std::uint32_t believed = kBufferSize - (received_ - told_forwarded_);
  return forwarded_ != told_forwarded_ && believed < kBufferSize / 2;
}

std::optional<Op> Connection::owed() const {
  if (phase_ == Phase::kRequestOwed) return Op::kRequest;
  if (phase_ == Phase::kResponseOwed) return Op::kResponse;
  if (phase_ == Phase::kRequested) return std::nullopt;
  if ((wanted_shutdown() & ~told_shutdown_) != 0) return Op::kShutdown;
  if (owes_credit_update()) return Op::kCreditUpdate;
  if (credit_request_owed_) return Op::kCreditRequest;
  return std::nullopt;
}

Header Connection::header(Op op) const {
  Header header{};
  header.src_cid = kHostCid;
  header.dst_cid = guest_cid_;
  header.src_port = ports_.host;
  header.dst_port = ports_.guest;
  header.type = kTypeStream;
  header.op = static_cast<std::uint16_t>(op);
  return header;
}

Header Connection::stamp(Op op, std::uint32_t len) {
  Header result = header(op);
  result.len = len;
  result.buf_alloc = kBufferSize;
  result.fwd_cnt = forwarded_;
  if (op == Op::kRequest) phase_ = Phase::kRequested;
  if (op == Op::kResponse) phase_ = Phase::kOpen;
  if (op == Op::kCreditRequest) credit_request_owed_ = false;
  if (op == Op::kShutdown) {
    told_shutdown_ |= wanted_shutdown();
    result.flags = told_shutdown_;
  }
  sent_ += len;
  told_forwarded_ = forwarded_;
  update_asked_ = false;
  return result;
}

}  // namespace mayfly::virtio::vsock
