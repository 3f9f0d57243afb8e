// The guest's side of the multiplexer: packets in, packets out. Its host's side is multiplexer_host.cpp.
#include "virtio/vsock/multiplexer.h"

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace mayfly::virtio::vsock {

namespace {

// Copies a header over the parts of a chain that were taken for it.
void put(std::span<const std::span<std::byte>> place, const Header& header) {
  auto bytes = std::as_bytes(std::span(&header, 1));
  for (const auto& part : place) {
    std::memcpy(part.data(), bytes.data(), part.size());
    bytes = bytes.subspan(part.size());
  }
}

}  // namespace

void Multiplexer::receive(const Header& header, Reader& payload) {
  ++counters_.packets_from_guest;
  const Verdict verdict = judge(header, guest_cid_, payload.remaining());
  if (verdict != Verdict::kServe) ++counters_.malformed_packets;
  if (verdict == Verdict::kDrop) return;
  const auto found = by_ports_.find(key({.host = header.dst_port, .guest = header.src_port}));
  Stream* stream = found == by_ports_.end() ? nullptr : found->second;
  if (verdict == Verdict::kRefuse) {
    // Only a packet addressed like the connection's can be the connection's.
    const bool its_own =
        header.dst_cid == kHostCid && header.dst_cid_reserved == 0 && header.type == kTypeStream;
    if (stream != nullptr && its_own) drop(*stream);
    return refuse(header);
  }
  if (stream == nullptr) return receive_unknown(header);
  switch (stream->connection->receive(header)) {
    case Connection::Action::kNone:
      return refresh(*stream);
    case Connection::Action::kEstablished:
      return established(*stream);
    case Connection::Action::kDeliver:
      return deliver(*stream, payload, header.len);
    case Connection::Action::kHalfClosed:
      return half_closed(*stream);
    case Connection::Action::kClosed:
      refuse(header);
      return detach(*stream);
    case Connection::Action::kReset:
      ++counters_.resets_received;
      if (!stream->connection->open()) ++counters_.refused_from_host;
      return detach(*stream);
    case Connection::Action::kViolation:
      ++counters_.protocol_violations;
      refuse(header);
      return drop(*stream);
  }
}

void Multiplexer::receive_unknown(const Header& header) {
  switch (op_of(header)) {
    case Op::kRequest:
      return connect_to_host(header);
    case Op::kRst:
      ++counters_.resets_received;
      return;
    default:
      return refuse(header);
  }
}

void Multiplexer::connect_to_host(const Header& request) {
  const auto refused = [&] {
    ++counters_.refused_from_guest;
    refuse(request);
  };
  if (connection_count() >= limits_.connections) return refused();
  auto socket = connect_socket(fmt::format("{}_{}", uds_path_, std::uint32_t{request.dst_port}));
  if (!socket) {
    if (log_limiter_.allow()) base::log::debug("vsock: {}", socket.error().message);
    return refused();
  }
  Stream* stream = add_stream(std::move(*socket), Stage::kConnected);
  if (stream == nullptr) return refused();
  // An RST that still waits is for an older connection between these ports: this one must not die of it.
  forget_resets(request);
  ++counters_.connections_from_guest;
  stream->connection = Connection::requested_by_guest(request);
  by_ports_[key(stream->connection->ports())] = stream;
  refresh(*stream);
}

void Multiplexer::forget_resets(const Header& request) {
  std::erase_if(resets_, [&](const Header& reset) {
    return reset.src_cid == request.dst_cid && reset.src_port == request.dst_port &&
           reset.dst_port == request.src_port;
  });
}

void Multiplexer::refuse(const Header& packet) {
  resets_.push_back(reset_for(packet));
}

void Multiplexer::deliver(Stream& stream, Reader& payload, std::uint32_t length) {
  counters_.bytes_from_guest += length;
  const auto parts = payload.take_spans(length);
  std::span<const std::span<std::byte>> left(parts);
  std::size_t sent = 0;
  std::vector<std::span<std::byte>> rest;
  // Straight from the guest's memory when nothing waits before it.
  while (!stream.unsent && !stream.host_deaf && sent < length) {
    const Transfer transfer = write_socket(stream.socket.get(), left);
    if (transfer.status == Transfer::Status::kBlocked) break;
    if (transfer.status != Transfer::Status::kSome) {
      host_is_deaf(stream);
      break;
    }
    sent += transfer.bytes;
    stream.connection->forwarded(static_cast<std::uint32_t>(transfer.bytes));
    rest = after(left, transfer.bytes);
    left = rest;
  }
  if (stream.host_deaf) {
    stream.connection->forwarded(static_cast<std::uint32_t>(length - sent));
  } else if (sent < length) {
    return buffer(stream, left);
  }
  refresh(stream);
}

void Multiplexer::half_closed(Stream& stream) {
  if (!stream.connection->guest_sends() && !stream.unsent) shut_write(stream);
  // The host peer's next write fails; what it wrote before is of no use to anyone.
  if (!stream.connection->guest_receives()) shut_read(stream);
  refresh(stream);
}

// Puts a stream where it belongs after anything about it changed.
void Multiplexer::refresh(Stream& stream) {
  Connection& connection = *stream.connection;
  if (stream.readable) connection.host_has_bytes();
  const bool ready = connection.owed().has_value() || (stream.readable && connection.sendable() > 0);
  if (ready != stream.ready) {
    stream.ready = ready;
    if (ready) {
      ready_.splice(ready_.end(), idle_, stream.self);
    } else {
      idle_.splice(idle_.end(), ready_, stream.self);
    }
  }
}

std::optional<std::uint32_t> Multiplexer::send(Writer& chain) {
  const auto place = chain.remaining() >= sizeof(Header) ? chain.take_spans(sizeof(Header))
                                                         : std::vector<std::span<std::byte>>();
  if (place.empty()) {
    ++counters_.short_chains;
    return 0;
  }
  std::optional<std::uint32_t> sent;
  if (!resets_.empty()) {
    put(place, resets_.front());
    resets_.pop_front();
    ++counters_.resets_sent;
    sent = sizeof(Header);
  } else if (!ready_.empty()) {
    sent = send_from(ready_.front(), place, chain);
  }
  if (sent > 0U) ++counters_.packets_to_guest;
  return sent;
}

std::uint32_t Multiplexer::send_control(Stream& stream, Op op, std::span<const std::span<std::byte>> place) {
  put(place, stream.connection->stamp(op, 0));
  if (stream.connection->awaits_reset() && !stream.deadline) set_deadline(&stream, limits_.guest_reset);
  // Behind the others, before refresh() takes it off the list.
  ready_.splice(ready_.end(), ready_, stream.self);
  refresh(stream);
  return sizeof(Header);
}

std::optional<std::uint32_t> Multiplexer::send_from(Stream& stream,
                                                    std::span<const std::span<std::byte>> place,
                                                    Writer& chain) {
  Connection& connection = *stream.connection;
  if (const auto op = connection.owed()) return send_control(stream, *op, place);
  const auto room = chain.take_spans(std::min(connection.sendable(), kMaxPayload));
  if (room.empty()) {
    ++counters_.short_chains;
    return 0;
  }
  const Transfer transfer = read_socket(stream.socket.get(), room);
  switch (transfer.status) {
    case Transfer::Status::kSome: {
      const auto length = static_cast<std::uint32_t>(transfer.bytes);
      put(place, connection.stamp(Op::kRw, length));
      counters_.bytes_to_guest += length;
      ready_.splice(ready_.end(), ready_, stream.self);
      refresh(stream);
      return static_cast<std::uint32_t>(sizeof(Header)) + length;
    }
    case Transfer::Status::kBlocked:
      stream.readable = false;
      refresh(stream);
      return std::nullopt;
    case Transfer::Status::kFailed:
      // It closed with bytes of the guest's unread (ECONNRESET): no more goes either way.
      host_is_deaf(stream);
      break;
    case Transfer::Status::kEnded:
      break;
  }
  stream.readable = false;
  connection.host_writes_no_more();
  if (const auto op = connection.owed()) return send_control(stream, *op, place);
  refresh(stream);
  return std::nullopt;
}

}  // namespace mayfly::virtio::vsock
