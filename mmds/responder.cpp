#include "mmds/responder.h"

#include <utility>

namespace mayfly::mmds {

// What a connection can hold is what a request may need.
static_assert(kReceiveBuffer >= kLargestHead + kLargestBody);

base::Result<std::unique_ptr<Responder>> Responder::create(std::shared_ptr<const Service> service) {
  const SipKey secret = TRY(random_key());
  return std::unique_ptr<Responder>(new Responder(std::move(service), secret));
}

Responder::Responder(std::shared_ptr<const Service> service, const SipKey& secret)
    : service_(std::move(service)),
      address_(service_->config().ipv4_address),
      listener_(
          address_, secret, [this](Connection& connection, Time now) { serve(connection, now); }, metrics_) {}

void Responder::receive(std::span<const std::byte> frame, bool checksum_left, Time now) {
  ++metrics_.rx_count;
  if (is_arp(frame)) return receive_arp(frame);
  receive_tcp(frame, checksum_left, now);
}

void Responder::receive_arp(std::span<const std::byte> frame) {
  const auto request = parse_arp(frame, address_);
  if (!request) return drop(request.error());
  ++metrics_.rx_accepted;
  if (arp_replies_.size() == kMostArpReplies) {
    ++metrics_.tx_errors;
    return;
  }
  arp_replies_.push_back(*request);
}

void Responder::receive_tcp(std::span<const std::byte> frame, bool checksum_left, Time now) {
  const auto received = parse_tcp(frame, address_, checksum_left);
  if (!received) return drop(received.error());
  ++metrics_.rx_accepted;
  listener_.receive(*received, now);
}

void Responder::drop(Drop why) {
  switch (why) {
    case Drop::kBadEthernet:
      ++metrics_.rx_bad_eth;
      break;
    case Drop::kMalformed:
      ++metrics_.rx_accepted_err;
      break;
    case Drop::kUnusual:
      ++metrics_.rx_accepted_unusual;
      break;
  }
}

// One request at a time: the next is looked at when the answer has arrived, so that whoever asks without
// reading holds one answer of ours and no more.
void Responder::serve(Connection& connection, Time now) {
  if (connection.finishing() || !connection.output_empty()) return;
  const auto parsed = parse_request(connection.received());
  if (const auto* malformed = std::get_if<Malformed>(&parsed)) {
    connection.send(to_bytes({.status = malformed->status, .body = std::string(malformed->why)}, false), now);
    connection.finish();
  } else if (const auto* request = std::get_if<Request>(&parsed)) {
    Response response = service_->answer(*request, now, metrics_);
    if (request->method == "HEAD") response.body.clear();
    const bool keep_alive = request->keep_alive;
    connection.consume(request->size);
    connection.send(to_bytes(response, keep_alive), now);
    if (!keep_alive) connection.finish();
  } else if (connection.peer_finished()) {
    connection.finish();
  }
}

std::size_t Responder::next(std::span<std::byte> out, Time now) {
  std::size_t length = 0;
  if (!arp_replies_.empty()) {
    length = build_arp_reply(out, kMacAddress, address_, arp_replies_.front());
    arp_replies_.pop_front();
  } else {
    const auto outgoing = listener_.next(now);
    length = build_tcp(out, kMacAddress, address_, outgoing.mac, outgoing.ip, outgoing.segment);
  }
  ++metrics_.tx_frames;
  metrics_.tx_bytes += length;
  return length;
}

void Responder::reset() {
  listener_.clear();
  arp_replies_.clear();
}

}  // namespace mayfly::mmds
