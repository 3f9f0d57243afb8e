// All connections of one device: from packets of the guest to host sockets and back.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/mapping.h"
#include "base/result.h"
#include "virtio/queue.h"
#include "virtio/vsock/backend.h"
#include "virtio/vsock/byte_ring.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/packet.h"
#include "virtio/vsock/state.h"
#include "virtio/vsock/text_protocol.h"

namespace mayfly::virtio::vsock {

// Everything is called with the device's mutex held.
//
// Nothing of a host peer's is held here: its bytes stay in its socket until there is room in the guest's
// receive queue. Of what the guest sent, kBufferSize bytes a connection at most wait for a slow host peer.
// Sockets are watched edge-triggered, so that one which cannot be served costs nothing, hung up or not.
class Multiplexer {
 public:
  using Clock = std::chrono::steady_clock;

  // `wake` is called after a host event. `loop`, `mutex` and `counters` outlive the multiplexer.
  static base::Result<std::unique_ptr<Multiplexer>> create(const Config& config, const Limits& limits,
                                                           base::EventLoop& loop, std::mutex& mutex,
                                                           Counters& counters, std::function<void()> wake);
  ~Multiplexer();
  Multiplexer(const Multiplexer&) = delete;
  Multiplexer& operator=(const Multiplexer&) = delete;

  // Accepts host programs from now on.
  void start();
  // Closes every connection. Host programs wait in the listener's backlog until the next start().
  void stop();

  // False while so many RSTs wait for the guest that no packet of its may be looked at.
  [[nodiscard]] bool accepts_packets() const { return resets_.size() < kMaxPendingResets; }
  // A packet from the guest, of which the header was taken off the chain.
  void receive(const Header& header, Reader& payload);

  // Whether send() may have something.
  [[nodiscard]] bool has_packets() const { return !resets_.empty() || !ready_.empty(); }
  // Writes the next packet to the guest; its size in bytes. 0: the chain is too small, return it empty.
  // Nothing: there was no packet after all, and nothing was written.
  std::optional<std::uint32_t> send(Writer& chain);

  [[nodiscard]] std::size_t connection_count() const { return idle_.size() + ready_.size(); }

 private:
  // RSTs that answer the guest stop at this number. Those that we send on our own account (timeouts, failing
  // host sockets) each end a connection the guest knows of, so there are no more than Limits::connections.
  static constexpr std::size_t kMaxPendingResets = 1024;
  // Buffers kept for the next connection that needs one.
  static constexpr std::size_t kSpareBuffers = 4;

  struct Stream;
  using Streams = std::list<Stream>;
  using Deadlines = std::multimap<Clock::time_point, Stream*>;

  enum class Stage : std::uint8_t {
    kLine,       // a host program's line is not finished; the guest knows nothing
    kConnected,  // has a Connection, and is in by_ports_
    kDraining,   // the guest is done; what it sent before is still on its way to the host peer
  };

  struct Stream {
    Stage stage;
    base::UniqueFd socket;
    ConnectLine line;
    std::optional<Connection> connection;
    std::optional<ByteRing> unsent;  // for the host peer
    bool readable = false;           // reading the socket may yield something
    bool host_deaf = false;          // the host peer reads no more
    bool write_shut = false;         // we told the host peer that no more comes
    bool ready = false;              // which list it is in
    Streams::iterator self;
    std::optional<Deadlines::iterator> deadline;
  };

  Multiplexer(const Config& config, const Limits& limits, Listener listener, base::EventLoop& loop,
              std::mutex& mutex, Counters& counters, std::function<void()> wake);

  // multiplexer.cpp: the guest's side.
  static std::uint64_t key(Ports ports) { return std::uint64_t{ports.host} << 32U | ports.guest; }
  void receive_unknown(const Header& header);
  void connect_to_host(const Header& request);
  void deliver(Stream& stream, Reader& payload, std::uint32_t length);
  void half_closed(Stream& stream);
  void refuse(const Header& packet);
  std::uint32_t send_control(Stream& stream, Op op, std::span<const std::span<std::byte>> place);
  std::optional<std::uint32_t> send_from(Stream& stream, std::span<const std::span<std::byte>> place,
                                         Writer& chain);
  void refresh(Stream& stream);
  void forget_resets(const Header& request);

  // multiplexer_host.cpp: the host's side.
  void accept_programs();
  void pause_accepting(Clock::duration retry);
  void resume_accepting();
  Stream* add_stream(base::UniqueFd socket, Stage stage);
  void socket_event(Stream& stream, std::uint32_t events);
  void connected_event(Stream& stream, std::uint32_t events);
  void read_line(Stream& stream);
  void request_from_host(Stream& stream, std::uint32_t guest_port);
  void established(Stream& stream);
  void buffer(Stream& stream, std::span<const std::span<std::byte>> parts);
  void flush(Stream& stream);
  void host_is_deaf(Stream& stream);
  void shut_write(Stream& stream);
  void shut_read(Stream& stream);
  void watch(const Stream& stream, std::uint32_t more);
  void detach(Stream& stream);
  void reset_from_host(Stream& stream);
  void drop(Stream& stream);
  void drop_buffer(Stream& stream);
  void set_deadline(Stream* stream, Clock::duration delay);
  void cancel_deadline(Stream& stream);
  void deadline_passed();
  void expire(Stream& stream);

  const std::uint32_t guest_cid_;
  const std::string uds_path_;
  const Limits limits_;
  base::EventLoop& loop_;
  std::mutex& mutex_;
  Counters& counters_;
  std::function<void()> wake_;
  Listener listener_;
  std::unique_ptr<base::Timer> timer_;
  std::optional<Clock::time_point> timer_set_;

  bool running_ = false;
  bool accepting_ = false;
  bool retry_pending_ = false;  // an entry without a stream in deadlines_
  std::uint32_t next_host_port_;
  Streams idle_;
  Streams ready_;  // first come, first served, one packet a turn
  std::unordered_map<std::uint64_t, Stream*> by_ports_;
  Deadlines deadlines_;
  std::deque<Header> resets_;
  std::vector<base::Mapping> spare_buffers_;
  base::log::Limiter log_limiter_;
};

}  // namespace mayfly::virtio::vsock
