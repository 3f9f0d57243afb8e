// A guest's side of the virtio socket device for tests: a driver that moves packets, and on top of it a small
// socket layer which holds the device to the protocol. Both throw when nothing comes for minutes.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "tests/support/virtio_driver.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/packet.h"

namespace mayfly::test {

namespace vsock = virtio::vsock;

inline constexpr std::uint32_t kGuestCid = 42;

// Calls `done` until it is true.
void wait_until(const std::function<bool()>& done, std::string_view what);

struct Packet {
  vsock::Header header;
  std::string payload;
};
inline vsock::Op op_of(const Packet& packet) {
  return vsock::op_of(packet.header);
}

// A header from the guest, with room for 256 KiB announced.
vsock::Header guest_header(vsock::Op op, std::uint32_t guest_port, std::uint32_t host_port,
                           std::uint32_t length = 0);

// A folder that is removed with all that is in it.
class Folder {
 public:
  Folder();
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  [[nodiscard]] std::string path(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

// How a test's guest differs from one that is like Linux.
struct GuestOptions {
  vsock::Limits limits{};
  std::uint16_t receive_buffers = 256;  // made available at first, and again when used
  std::uint32_t receive_size = 4096;    // bytes of each, the header's included
  std::uint32_t header_split = 0;       // receive buffers are cut in pieces of this size; 0: whole
  bool reuse_receive_buffers = true;
};

// A device, active, with its event loop on a thread of its own, and the driver's side of its queues. Used
// from one thread.
class Driver {
 public:
  explicit Driver(const GuestOptions& options = {});
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  [[nodiscard]] std::string uds_path() const { return folder_.path("v.sock"); }
  [[nodiscard]] std::string uds_path(std::uint32_t port) const {
    return uds_path() + "_" + std::to_string(port);
  }

  // Waits while the transmit queue is full.
  void send(const vsock::Header& header, std::string_view payload = {});
  // A chain of just these bytes, whatever they are.
  void send_bytes(std::span<const std::byte> bytes, std::uint32_t split = 0);
  // Makes packets available without telling the device until kick().
  void queue(const vsock::Header& header, std::string_view payload = {});
  void kick();
  [[nodiscard]] bool all_sent();

  std::optional<Packet> poll();
  Packet receive();
  // Makes n more receive buffers available (sizes as in the options, or `size` bytes).
  void provide(std::uint16_t n, std::uint32_t size = 0);

  // With the device's mutex held, as a transport calls it.
  template <typename Function>
  auto locked(Function function) {
    const std::lock_guard lock(device_->mutex());
    return function(*device_);
  }
  [[nodiscard]] vsock::Counters counters();
  [[nodiscard]] std::size_t connections();
  // Resets the device and sets its queues up anew.
  void reset();
  void activate();

  FakeInterrupt& interrupt() { return interrupt_; }
  DriverQueue& rx() { return *rx_; }
  DriverQueue& tx() { return *tx_; }
  FakeGuest& guest() { return guest_; }

 private:
  struct Slot {
    std::vector<Buffer> buffers;
  };
  void notify(std::uint16_t queue);
  void collect_sent();
  void submit_receive(const Slot& slot);
  Slot make_receive_slot(std::uint32_t size);

  GuestOptions options_;
  Folder folder_;
  FakeGuest guest_;
  FakeInterrupt interrupt_;
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<vsock::Device> device_;
  std::unique_ptr<DriverQueue> rx_;
  std::unique_ptr<DriverQueue> tx_;
  std::unique_ptr<DriverQueue> event_;
  std::map<std::uint16_t, Slot> receiving_;  // by head
  std::vector<base::GuestAddress> send_areas_;
  std::map<std::uint16_t, base::GuestAddress> sending_;  // by head
  std::thread thread_;
};

// One stream socket of the guest.
struct GuestSocket {
  vsock::Ports ports;
  bool connected = false;
  bool reset = false;               // an RST came
  std::uint32_t peer_shutdown = 0;  // flags that came
  std::uint32_t own_shutdown = 0;   // flags that were sent
  std::string in;                   // came, and was not read
  std::string out;                  // written, and not sent for want of credit
  bool reading = true;              // false: `in` is not read, so that its room is not given back
  std::string read;                 // what was read
  std::uint32_t buf_alloc = 256U << 10U;
  std::uint32_t received = 0;
  std::uint32_t forwarded = 0;
  std::uint32_t told_forwarded = 0;
  std::uint32_t sent = 0;
  std::uint32_t peer_buf_alloc = 0;
  std::uint32_t peer_forwarded = 0;

  [[nodiscard]] std::uint32_t credit() const { return peer_buf_alloc - (sent - peer_forwarded); }
};

// Behaves as Linux 6.1 does, apart from what a test tells a socket to do.
class SocketLayer {
 public:
  explicit SocketLayer(Driver& driver) : driver_(driver) {}

  // Connects; returns once the host answered (connected or reset).
  GuestSocket& connect(std::uint32_t host_port, std::uint32_t guest_port = 0);
  // Sends the request only.
  GuestSocket& start_connect(std::uint32_t host_port, std::uint32_t guest_port = 0);
  // Takes requests to any guest port; `accepted` is called for each.
  void listen(std::function<void(GuestSocket&)> accepted) { accepted_ = std::move(accepted); }
  void write(GuestSocket& socket, std::string_view text) { socket.out += text; }
  void shutdown(GuestSocket& socket, std::uint32_t flags);
  // As close(2): both flags.
  void close(GuestSocket& socket) { shutdown(socket, vsock::kShutdownBoth); }
  // Forgets a socket that was reset, so that its ports may be used again.
  void forget(GuestSocket& socket);

  // Takes what came and sends what may be sent; whether there was anything.
  bool turn();
  void run_until(const std::function<bool()>& done, std::string_view what);
  [[nodiscard]] std::map<std::uint64_t, GuestSocket>& sockets() { return sockets_; }
  [[nodiscard]] std::uint64_t unknown_packets() const { return unknown_packets_; }

 private:
  static std::uint64_t key(std::uint32_t host, std::uint32_t guest) {
    return std::uint64_t{host} << 32U | guest;
  }
  void take(const Packet& packet);
  void take_data(GuestSocket& socket, const Packet& packet);
  bool transmit(GuestSocket& socket);
  void send(GuestSocket& socket, vsock::Op op, std::string_view payload = {}, std::uint32_t flags = 0);

  Driver& driver_;
  std::function<void(GuestSocket&)> accepted_;
  std::map<std::uint64_t, GuestSocket> sockets_;
  std::uint32_t next_port_ = 1'000'000;
  std::uint64_t unknown_packets_ = 0;
};

}  // namespace mayfly::test
