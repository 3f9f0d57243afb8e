// One TCP connection, at the end that was called (RFC 9293).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "mmds/clock.h"
#include "mmds/packet.h"

namespace mayfly::mmds {

// What a peer may send before it was read.
inline constexpr std::size_t kReceiveBuffer = 16384;

// A segment is answered after this time, or it is sent again; each time the wait doubles.
inline constexpr std::chrono::milliseconds kFirstTimeout{200};
inline constexpr std::chrono::milliseconds kLongestTimeout{6400};
inline constexpr unsigned kMostRetries = 8;     // then the peer is gone
inline constexpr unsigned kMostSynRetries = 3;  // before it has answered at all
// How long a closed connection still answers what was under way.
inline constexpr std::chrono::seconds kLinger{1};

// The whole of it is pulled: the connection knows what it has to say, and next() says one segment when there
// is room for one. So nothing waits in a queue, and memory is the two buffers, whatever the peer does.
//
// Deliberately small. The peer is the guest, one memory copy away: there is no path whose congestion would
// have to be found out, and nothing arrives out of order but after a loss, so what does is dropped for the
// peer to send again. Options besides MSS are not offered, so that the peer uses none.
//
// A peer that guesses cannot end or feed a connection: RST and SYN inside the window get an ACK (RFC 5961).
class Connection {
 public:
  // From a peer's SYN. `initial_sequence`: RFC 6528.
  Connection(const Segment& syn, std::uint32_t initial_sequence, Time now);

  // ---- The peer's side ----

  // False: the segment is to be answered with a reset, the connection is as before.
  bool receive(const Segment& segment, Time now);
  [[nodiscard]] bool wants_to_send() const;
  // What to send next, where wants_to_send(); ports are the caller's. The payload is valid until the next
  // call of anything here.
  Segment next(Time now);
  // When to call tick(), if no segment arrives before.
  [[nodiscard]] std::optional<Time> deadline() const { return deadline_; }
  void tick(Time now);

  [[nodiscard]] bool half_open() const { return state_ == State::kSynReceived; }
  [[nodiscard]] bool in_time_wait() const { return state_ == State::kTimeWait; }
  [[nodiscard]] bool closed() const { return state_ == State::kClosed; }
  // When something last arrived that is of use: a byte, or that one of ours got there.
  [[nodiscard]] Time last_progress() const { return last_progress_; }
  // Whether `syn` may start another connection from the same port of the peer's, in the place of this one
  // (section 3.10.7.4, TIME-WAIT).
  [[nodiscard]] bool succeeded_by(const Segment& syn) const;

  // ---- The application's side, once it is not half_open() ----

  // What has arrived and was not consumed.
  [[nodiscard]] std::string_view received() const { return input_; }
  void consume(std::size_t count);
  // Nothing more will arrive.
  [[nodiscard]] bool peer_finished() const { return peer_finished_; }
  // The peer has everything that was sent.
  [[nodiscard]] bool output_empty() const { return pending().empty(); }
  // Only when output_empty() and not finishing().
  void send(std::string bytes, Time now);
  // No more is sent after what was; what still arrives is taken and forgotten.
  void finish();
  [[nodiscard]] bool finishing() const { return finishing_; }

 private:
  enum class State : std::uint8_t {
    kSynReceived,
    kEstablished,  // and all that section 3.3.2 has between it and TIME-WAIT: finishing_ and peer_finished_
                   // tell
    kTimeWait,
    kClosed,
  };
  [[nodiscard]] std::string_view pending() const { return std::string_view(output_).substr(acknowledged_); }
  [[nodiscard]] std::uint32_t in_flight() const { return send_next_ - send_unacknowledged_; }
  [[nodiscard]] std::size_t sendable() const;
  [[nodiscard]] bool fin_due_after(std::size_t count) const;
  [[nodiscard]] std::uint32_t receive_window() const {
    return static_cast<std::uint32_t>(kReceiveBuffer - input_.size());
  }
  [[nodiscard]] bool acceptable(const Segment& segment) const;
  bool take_acknowledgment(const Segment& segment);
  void advance(std::uint32_t acknowledgment);
  void take_window(const Segment& segment);
  void take_payload(const Segment& segment);
  void close_when_done(Time now);
  void arm(Time now);
  void fill(Segment& segment);
  void fill_again(Segment& segment) const;

  State state_ = State::kSynReceived;
  // Section 3.3.1. Sequence numbers wrap: they are compared by their difference.
  std::uint32_t send_unacknowledged_;
  std::uint32_t send_next_;  // goes back when segments were lost
  std::uint32_t send_most_;  // never does
  std::uint32_t receive_next_;
  std::uint32_t peer_window_;
  std::uint32_t window_sequence_;        // SND.WL1
  std::uint32_t window_acknowledgment_;  // SND.WL2
  std::uint32_t advertised_edge_;        // where the peer may send up to
  std::size_t segment_size_;
  Time last_progress_;

  std::string input_;
  std::string output_;
  std::size_t acknowledged_ = 0;  // bytes of output_
  bool ack_due_ = true;           // something must be sent, be it empty; at first the SYN
  bool reset_due_ = false;
  bool finishing_ = false;
  bool fin_sent_ = false;
  bool fin_acknowledged_ = false;
  bool peer_finished_ = false;
  bool peer_finished_first_ = false;
  bool probing_ = false;  // a byte goes into a window of none

  unsigned duplicates_ = 0;    // of one acknowledgment, in a row
  bool resend_first_ = false;  // the first segment in flight is missing
  std::uint32_t recover_ = 0;  // what was in flight when one was found missing
  bool recovering_ = false;
  unsigned retries_ = 0;
  std::chrono::milliseconds timeout_ = kFirstTimeout;
  std::optional<Time> deadline_;
};

}  // namespace mayfly::mmds
