// One stream between a guest port and a host port: what the guest may do next, what it is owed, and how many
// bytes each side has room for. No input or output happens here.
#pragma once

#include <cstdint>
#include <optional>

#include "virtio/vsock/packet.h"

namespace mayfly::virtio::vsock {

// What we advertise as buf_alloc: bytes of a connection that we hold for a host peer that does not read.
inline constexpr std::uint32_t kBufferSize = 256U << 10U;

struct Ports {
  std::uint32_t host = 0;
  std::uint32_t guest = 0;
  bool operator==(const Ports&) const = default;
};

class Connection {
 public:
  // What the device does after a packet from the guest.
  enum class Action : std::uint8_t {
    kNone,
    kEstablished,  // the guest accepted what the host asked for
    kDeliver,      // header.len bytes of payload go to the host peer: forwarded() as they do
    kHalfClosed,   // look at guest_sends() and guest_receives()
    kClosed,       // the guest is done with both directions: answer with RST and forget the connection
    kReset,        // RST: forget the connection, no answer
    kViolation,    // against the protocol: answer with RST and forget the connection
  };

  // The guest's REQUEST was granted: owes RESPONSE.
  static Connection requested_by_guest(const Header& request);
  // Owes REQUEST.
  static Connection requested_by_host(std::uint32_t guest_cid, Ports ports);

  [[nodiscard]] Ports ports() const { return ports_; }
  [[nodiscard]] bool open() const { return phase_ == Phase::kOpen; }
  // False as long as the guest was told nothing of this connection.
  [[nodiscard]] bool known_to_guest() const { return phase_ != Phase::kRequestOwed; }
  [[nodiscard]] bool guest_sends() const { return guest_sends_; }
  [[nodiscard]] bool guest_receives() const { return guest_receives_; }
  // Both sides are through with both directions, the guest was told, and only its RST is missing.
  [[nodiscard]] bool awaits_reset() const { return told_shutdown_ == kShutdownBoth; }

  // A packet that judge() found fit to serve.
  Action receive(const Header& header);

  // n bytes of payload went to the host peer, or nowhere because it takes no more.
  void forwarded(std::uint32_t n) { forwarded_ += n; }
  void host_reads_no_more() { host_reads_ = false; }
  // End of file from the host peer; all bytes before it were sent.
  void host_writes_no_more() { host_writes_ = false; }
  // The host peer may have bytes for the guest. Without room for them the guest is asked for some, once.
  void host_has_bytes();

  // Payload bytes that the guest has room for now.
  [[nodiscard]] std::uint32_t sendable() const;
  // The control packet that the guest is owed next.
  [[nodiscard]] std::optional<Op> owed() const;
  // The header of a packet that is sent now, with `len` <= sendable() bytes of payload.
  Header stamp(Op op, std::uint32_t len);
  // The header of an RST that ends the connection from our side.
  [[nodiscard]] Header reset() const { return header(Op::kRst); }

 private:
  enum class Phase : std::uint8_t { kRequestOwed, kRequested, kResponseOwed, kOpen };

  Connection(std::uint32_t guest_cid, Ports ports, Phase phase)
      : guest_cid_(guest_cid), ports_(ports), phase_(phase) {}
  [[nodiscard]] Header header(Op op) const;
  Action receive_data(std::uint32_t len);
  Action receive_shutdown(std::uint32_t flags);
  void take_credit(const Header& header);
  [[nodiscard]] std::uint32_t guest_room() const;
  [[nodiscard]] std::uint32_t buffered() const { return received_ - forwarded_; }
  [[nodiscard]] std::uint32_t wanted_shutdown() const;
  [[nodiscard]] bool owes_credit_update() const;

  std::uint32_t guest_cid_;
  Ports ports_;
  Phase phase_;
  bool guest_sends_ = true;
  bool guest_receives_ = true;
  bool host_reads_ = true;
  bool host_writes_ = true;
  bool update_asked_ = false;  // by a CREDIT_REQUEST of the guest's
  bool credit_request_owed_ = false;
  bool credit_asked_ = false;        // once for each time that the guest has no room
  std::uint32_t told_shutdown_ = 0;  // flags of the last SHUTDOWN we sent

  // Section 5.10.6.3. All of these wrap; only differences mean anything.
  std::uint32_t received_ = 0;        // bytes from the guest
  std::uint32_t forwarded_ = 0;       // of them, bytes that left our buffer: fwd_cnt
  std::uint32_t told_forwarded_ = 0;  // the last fwd_cnt the guest was sent
  std::uint32_t sent_ = 0;            // bytes to the guest: its peer's tx_cnt
  std::uint32_t guest_buf_alloc_ = 0;
  std::uint32_t guest_fwd_cnt_ = 0;
};

}  // namespace mayfly::virtio::vsock
