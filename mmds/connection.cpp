#include "mmds/connection.h"

#include <algorithm>
#include <utility>

namespace mayfly::mmds {

namespace {

// Section 3.7.1: what a peer can take that did not say, and the least that is worth believing (of the
// smallest MTU, 68 bytes).
constexpr std::uint16_t kDefaultMss = 536;
constexpr std::uint16_t kLeastMss = 28;

constexpr std::uint32_t kLargestWindow = 65535;
constexpr unsigned kDuplicatesOfALoss = 3;  // RFC 5681, section 3.2

bool before(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>(a - b) < 0;
}
bool after(std::uint32_t a, std::uint32_t b) {
  return before(b, a);
}

}  // namespace

Connection::Connection(const Segment& syn, std::uint32_t initial_sequence, Time now)
    : send_unacknowledged_(initial_sequence),
      send_next_(initial_sequence),
      send_most_(initial_sequence),
      receive_next_(syn.sequence + 1),
      peer_window_(syn.window),
      window_sequence_(syn.sequence),
      window_acknowledgment_(initial_sequence),
      advertised_edge_(receive_next_),
      segment_size_(std::clamp<std::size_t>(syn.mss.value_or(kDefaultMss), kLeastMss, kMostPayload)),
      last_progress_(now) {}

// ---- Receiving (section 3.10.7.4, whose order this is) ----

bool Connection::receive(const Segment& segment, Time now) {
  if (closed()) return true;
  if (!acceptable(segment)) {
    if (segment.has(kRst)) return true;
    ack_due_ = true;
    // Our last ACK was lost, if this is the peer's FIN once more.
    if (in_time_wait() && segment.has(kFin)) deadline_ = now + kLinger;
    return true;
  }
  if (segment.has(kRst)) {
    if (segment.sequence == receive_next_) state_ = State::kClosed;
    ack_due_ = true;
    return true;
  }
  if (segment.has(kSyn)) {
    ack_due_ = true;
    return true;
  }
  if (!segment.has(kAck)) return true;
  const bool answers_syn = send_most_ != send_unacknowledged_ && segment.acknowledgment == send_most_;
  if (half_open() && !answers_syn) return false;
  const std::pair before_it(send_unacknowledged_, receive_next_);
  if (!take_acknowledgment(segment)) return true;
  take_payload(segment);
  if (before_it != std::pair(send_unacknowledged_, receive_next_)) last_progress_ = now;
  close_when_done(now);
  arm(now);
  return true;
}

bool Connection::acceptable(const Segment& segment) const {
  const std::uint32_t window = receive_window();
  // A closed window lets acknowledgments in all the same; the payload is cut off later.
  if (window == 0) return segment.sequence == receive_next_;
  const auto inside = [&](std::uint32_t sequence) { return sequence - receive_next_ < window; };
  return inside(segment.sequence) ||
         (segment.length() > 0 && inside(segment.sequence + segment.length() - 1));
}

// False: the segment is dropped.
bool Connection::take_acknowledgment(const Segment& segment) {
  const std::uint32_t acknowledgment = segment.acknowledgment;
  // Of what was never sent, or of long ago (RFC 5961, section 5.2).
  if (after(acknowledgment, send_most_) || before(acknowledgment, send_unacknowledged_ - kLargestWindow)) {
    ack_due_ = true;
    return false;
  }
  if (before(acknowledgment, send_unacknowledged_)) return true;
  const bool silent = segment.length() == 0 && segment.window == peer_window_;
  if (acknowledgment != send_unacknowledged_) {
    advance(acknowledgment);
  } else if (silent && in_flight() > 0 && peer_window_ > 0 && ++duplicates_ == kDuplicatesOfALoss) {
    resend_first_ = true;
    recovering_ = true;
    recover_ = send_most_;
  }
  take_window(segment);
  return true;
}

void Connection::advance(std::uint32_t acknowledgment) {
  std::size_t count = acknowledgment - send_unacknowledged_;
  if (half_open()) {
    state_ = State::kEstablished;
    --count;
  }
  const std::size_t data = std::min(count, pending().size());
  if (count > data) fin_acknowledged_ = true;
  acknowledged_ += data;
  if (pending().empty()) {
    output_ = {};
    acknowledged_ = 0;
  }
  send_unacknowledged_ = acknowledgment;
  if (before(send_next_, acknowledgment)) send_next_ = acknowledgment;
  // More than one was lost: the next one, too, is missing (RFC 6582).
  recovering_ = recovering_ && before(acknowledgment, recover_);
  resend_first_ = recovering_;
  duplicates_ = 0;
  retries_ = 0;
  timeout_ = kFirstTimeout;
  deadline_.reset();
  probing_ = false;
}

void Connection::take_window(const Segment& segment) {
  const bool newer =
      before(window_sequence_, segment.sequence) ||
      (window_sequence_ == segment.sequence && !after(window_acknowledgment_, segment.acknowledgment));
  if (!newer) return;
  window_sequence_ = segment.sequence;
  window_acknowledgment_ = segment.acknowledgment;
  peer_window_ = segment.window;
  if (peer_window_ == 0) {
    // Whoever says so is there: it may go on for as long as it likes (section 3.8.6.1).
    retries_ = 0;
  } else if (std::exchange(probing_, false)) {
    // What went into the closed window was not taken.
    send_next_ = send_unacknowledged_;
    deadline_.reset();
  }
}

void Connection::take_payload(const Segment& segment) {
  if (segment.length() == 0) return;
  ack_due_ = true;
  // Out of order: the ACK tells the peer what is missing. After the peer's FIN there is nothing.
  if (after(segment.sequence, receive_next_) || peer_finished_) return;
  const std::size_t known = receive_next_ - segment.sequence;
  auto payload = segment.payload.subspan(std::min(known, segment.payload.size()));
  payload = payload.first(std::min<std::size_t>(payload.size(), receive_window()));
  if (!finishing_) {
    for (const std::byte byte : payload) input_ += std::to_integer<char>(byte);
  }
  receive_next_ += static_cast<std::uint32_t>(payload.size());
  const auto end = segment.sequence + static_cast<std::uint32_t>(segment.payload.size());
  if (segment.has(kFin) && end == receive_next_) {
    ++receive_next_;
    peer_finished_ = true;
    peer_finished_first_ = !fin_sent_;
  }
}

void Connection::close_when_done(Time now) {
  if (state_ != State::kEstablished || !fin_acknowledged_ || !peer_finished_) return;
  // Whoever finished first has to wait for segments that are under way (section 3.3.2).
  state_ = peer_finished_first_ ? State::kClosed : State::kTimeWait;
  deadline_ = now + kLinger;
}

bool Connection::succeeded_by(const Segment& syn) const {
  return in_time_wait() && syn.has(kSyn) && !syn.has(kAck | kRst) && after(syn.sequence, receive_next_);
}

// ---- Sending ----

// Bytes that may go now, in one segment.
std::size_t Connection::sendable() const {
  if (state_ != State::kEstablished || in_flight() >= pending().size()) return 0;
  const std::size_t left = pending().size() - in_flight();
  const std::uint32_t window = probing_ ? std::max(peer_window_, 1U) : peer_window_;
  const std::size_t room = window > in_flight() ? window - in_flight() : 0;
  const std::size_t count = std::min({left, room, segment_size_});
  // A window that opens bit by bit is not filled bit by bit (section 3.8.6.2.1).
  if (count < segment_size_ && count < left && in_flight() > 0) return 0;
  return count;
}

// A FIN needs no window.
bool Connection::fin_due_after(std::size_t count) const {
  return state_ == State::kEstablished && finishing_ && !fin_acknowledged_ &&
         in_flight() + count == pending().size();
}

bool Connection::wants_to_send() const {
  return !closed() && (reset_due_ || ack_due_ || resend_first_ || sendable() > 0 || fin_due_after(0));
}

Segment Connection::next(Time now) {
  Segment segment{.sequence = send_most_, .acknowledgment = receive_next_, .flags = kAck};
  segment.window = static_cast<std::uint16_t>(receive_window());
  advertised_edge_ = receive_next_ + receive_window();
  ack_due_ = false;
  if (reset_due_) {
    state_ = State::kClosed;
    segment.flags = kRst | kAck;
    return segment;
  }
  if (half_open()) {
    segment.sequence = send_unacknowledged_;
    segment.flags = kSyn | kAck;
    segment.mss = static_cast<std::uint16_t>(kMostPayload);
  } else if (std::exchange(resend_first_, false)) {
    fill_again(segment);
  } else {
    fill(segment);
  }
  const std::uint32_t end = segment.sequence + segment.length();
  if (segment.length() > 0 && after(end, send_next_)) send_next_ = end;
  if (after(end, send_most_)) send_most_ = end;
  fin_sent_ = fin_sent_ || segment.has(kFin);
  arm(now);
  return segment;
}

// With what comes next, if anything may.
void Connection::fill(Segment& segment) {
  const std::size_t count = sendable();
  if (fin_due_after(count)) segment.flags |= kFin;
  if (count > 0) segment.payload = std::as_bytes(std::span(pending().substr(in_flight(), count)));
  if (count > 0 && in_flight() + count == pending().size()) segment.flags |= kPsh;
  if (segment.length() > 0) segment.sequence = send_next_;
}

// With what is in flight for the longest time.
void Connection::fill_again(Segment& segment) const {
  const std::size_t count = std::min({std::size_t{in_flight()}, pending().size(), segment_size_});
  segment.payload = std::as_bytes(std::span(pending().substr(0, count)));
  if (count == pending().size() && fin_sent_ && !fin_acknowledged_) segment.flags |= kFin;
  if (segment.length() > 0) segment.sequence = send_unacknowledged_;
}

void Connection::arm(Time now) {
  if (in_time_wait() || closed()) return;
  const bool shut_out =
      state_ == State::kEstablished && in_flight() == 0 && !pending().empty() && sendable() == 0;
  if (in_flight() == 0 && !shut_out) {
    deadline_.reset();
  } else if (!deadline_) {
    deadline_ = now + timeout_;
  }
}

void Connection::tick(Time now) {
  if (!deadline_ || now < *deadline_ || closed()) return;
  deadline_.reset();
  if (in_time_wait()) {
    state_ = State::kClosed;
    return;
  }
  if (++retries_ > (half_open() ? kMostSynRetries : kMostRetries)) {
    if (half_open()) state_ = State::kClosed;
    reset_due_ = true;
    return;
  }
  timeout_ = std::min(timeout_ * 2, kLongestTimeout);
  // All of it is sent again: what of it had arrived the peer will say.
  send_next_ = send_unacknowledged_;
  resend_first_ = false;
  recovering_ = false;
  duplicates_ = 0;
  if (half_open()) ack_due_ = true;
  probing_ = peer_window_ == 0 && !pending().empty();
}

// ---- The application ----

void Connection::consume(std::size_t count) {
  input_.erase(0, count);
  // The peer learns of room once it is worth a segment (section 3.8.6.2.2).
  if (receive_next_ + receive_window() - advertised_edge_ >= kMostPayload) ack_due_ = true;
}

void Connection::send(std::string bytes, Time now) {
  output_ = std::move(bytes);
  acknowledged_ = 0;
  arm(now);
}

void Connection::finish() {
  finishing_ = true;
  input_ = {};
}

}  // namespace mayfly::mmds
