#include "mmds/listener.h"

#include <algorithm>
#include <utility>

namespace mayfly::mmds {

Listener::Listener(const Ipv4Address& address, const SipKey& secret, Application application,
                   Metrics& metrics)
    : address_(address), secret_(secret), application_(std::move(application)), metrics_(metrics) {}

// ---- Receiving ----

void Listener::receive(const Received& received, Time now) {
  const Segment& segment = received.segment;
  const Peer peer{received.ip, segment.source_port};
  Entry* entry = segment.destination_port == kPort ? find(peer) : nullptr;
  if (entry != nullptr && entry->connection.succeeded_by(segment)) {
    erase(static_cast<std::size_t>(entry - entries_.data()));
    entry = nullptr;
  }
  if (entry == nullptr) {
    const bool opens = segment.destination_port == kPort && segment.has(kSyn) && !segment.has(kAck | kRst);
    return opens ? accept(received, peer, now) : reset(received);
  }
  if (!entry->connection.receive(segment, now)) reset(received);
  if (!entry->connection.half_open() && !entry->connection.closed()) application_(entry->connection, now);
  sweep();
}

Listener::Entry* Listener::find(const Peer& peer) {
  const auto found = std::ranges::find(entries_, peer, &Entry::peer);
  return found != entries_.end() ? &*found : nullptr;
}

void Listener::accept(const Received& received, const Peer& peer, Time now) {
  if (!make_room(now)) {
    ++metrics_.rx_accepted_unusual;
    return;
  }
  if (entries_.capacity() == 0) entries_.reserve(kMostConnections);
  entries_.push_back({peer, received.mac, Connection(received.segment, initial_sequence(peer, now), now)});
  ++metrics_.connections_created;
}

// Whether there is a place for one more connection, which one of little worth may have made.
bool Listener::make_room(Time now) {
  const auto half_open = [](const Entry& entry) { return entry.connection.half_open(); };
  const bool flood = static_cast<std::size_t>(std::ranges::count_if(entries_, half_open)) >= kMostHalfOpen;
  if (!flood && entries_.size() < kMostConnections) return true;
  // The one that has done nothing for longest, of those that have done nothing for long enough.
  std::optional<std::size_t> worst;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Connection& connection = entries_[i].connection;
    if (flood && !connection.half_open()) continue;
    const auto patience = connection.in_time_wait() ? std::chrono::seconds(0)
                          : connection.half_open()  ? kIdleHalfOpen
                                                    : kIdle;
    if (now - connection.last_progress() < patience) continue;
    if (!worst || connection.last_progress() < entries_[*worst].connection.last_progress()) worst = i;
  }
  if (worst) erase(*worst);
  return worst.has_value();
}

// RFC 6528: a clock of 4 us, and a secret for each pair of ends.
std::uint32_t Listener::initial_sequence(const Peer& peer, Time now) const {
  std::array<std::uint8_t, 10> ends{};
  std::ranges::copy(address_, ends.begin());
  std::ranges::copy(peer.ip, ends.begin() + 4);
  ends[8] = static_cast<std::uint8_t>(peer.port >> 8U);
  ends[9] = static_cast<std::uint8_t>(peer.port);
  const auto hash = siphash(secret_, std::as_bytes(std::span(ends)))[0];
  const auto ticks =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() / 4;
  return static_cast<std::uint32_t>(hash) + static_cast<std::uint32_t>(ticks);
}

// RFC 9293, section 3.10.7.1: for a segment that belongs to no connection.
void Listener::reset(const Received& received) {
  ++metrics_.rx_accepted_unusual;
  const Segment& segment = received.segment;
  if (segment.has(kRst)) return;
  if (resets_.size() == kMostResets) {
    ++metrics_.tx_errors;
    return;
  }
  Segment answer{.source_port = segment.destination_port, .destination_port = segment.source_port};
  if (segment.has(kAck)) {
    answer.sequence = segment.acknowledgment;
    answer.flags = kRst;
  } else {
    answer.acknowledgment = segment.sequence + segment.length();
    answer.flags = kRst | kAck;
  }
  resets_.push_back({received.mac, received.ip, answer});
}

// ---- Sending ----

bool Listener::wants_to_send() const {
  return !resets_.empty() ||
         std::ranges::any_of(entries_, [](const Entry& entry) { return entry.connection.wants_to_send(); });
}

Listener::Outgoing Listener::next(Time now) {
  if (!resets_.empty()) {
    const Outgoing outgoing = resets_.front();
    resets_.pop_front();
    return outgoing;
  }
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    Entry& entry = entries_[(turn_ + i) % entries_.size()];
    if (!entry.connection.wants_to_send()) continue;
    turn_ = (turn_ + i + 1) % entries_.size();
    Outgoing outgoing{entry.mac, entry.peer.ip, entry.connection.next(now)};
    outgoing.segment.source_port = kPort;
    outgoing.segment.destination_port = entry.peer.port;
    // A reset was its last word, without payload.
    if (entry.connection.closed()) sweep();
    return outgoing;
  }
  return {};
}

// ---- Time ----

std::optional<Time> Listener::deadline() const {
  std::optional<Time> first;
  for (const Entry& entry : entries_) {
    const auto deadline = entry.connection.deadline();
    if (deadline && (!first || *deadline < *first)) first = deadline;
  }
  return first;
}

void Listener::tick(Time now) {
  for (Entry& entry : entries_) entry.connection.tick(now);
  sweep();
}

// ---- Ends ----

void Listener::erase(std::size_t index) {
  if (index + 1 != entries_.size()) entries_[index] = std::move(entries_.back());
  entries_.pop_back();
  ++metrics_.connections_destroyed;
}

void Listener::sweep() {
  for (std::size_t i = entries_.size(); i > 0; --i) {
    if (entries_[i - 1].connection.closed()) erase(i - 1);
  }
}

void Listener::clear() {
  metrics_.connections_destroyed += entries_.size();
  entries_.clear();
  resets_.clear();
}

}  // namespace mayfly::mmds
