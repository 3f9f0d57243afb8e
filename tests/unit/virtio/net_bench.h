// A network device on a network in memory, behind a transport, with its driver.
#pragma once

#include <catch2/catch.hpp>

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "tests/support/mmio_driver.h"
#include "tests/support/virtio_driver.h"
#include "virtio/net/device.h"

namespace mayfly::test {

using Bytes = std::vector<std::byte>;

inline constexpr virtio::net::MacAddress kGuestMac = {0x02, 0xfe, 1, 2, 3, 4};
inline constexpr virtio::net::MacAddress kHostMac = {0x02, 0xff, 9, 8, 7, 6};

inline constexpr std::uint64_t kAllOffloads =
    virtio::net::kFeatureCsum | virtio::net::kFeatureGuestCsum | virtio::net::kFeatureGuestTso4 |
    virtio::net::kFeatureGuestTso6 | virtio::net::kFeatureGuestEcn | virtio::net::kFeatureGuestUfo |
    virtio::net::kFeatureHostTso4 | virtio::net::kFeatureHostTso6 | virtio::net::kFeatureHostEcn |
    virtio::net::kFeatureHostUfo;

// An Ethernet frame with `payload`, from `source`.
inline Bytes frame(std::string_view payload, const virtio::net::MacAddress& source = kGuestMac) {
  const virtio::net::EthernetHeader ethernet{.destination = kHostMac, .source = source, .type = {0x88, 0xb5}};
  const auto head = std::as_bytes(std::span(&ethernet, 1));
  Bytes bytes(head.begin(), head.end());
  const auto text = std::as_bytes(std::span(payload));
  bytes.insert(bytes.end(), text.begin(), text.end());
  return bytes;
}

// Behind a header.
inline Bytes packet(const Bytes& frame, const virtio::net::Header& header = {}) {
  const auto head = std::as_bytes(std::span(&header, 1));
  Bytes bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), frame.begin(), frame.end());
  return bytes;
}

// A pair of sockets that keep packets apart is a network in all that matters to a device: what is too long
// for the reader is cut, a full one answers EAGAIN, one that is closed hangs up. And it fails when it is told
// to.
struct FakeNetwork {
  FakeNetwork() {
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0);
    near.reset(ends[0]);
    far.reset(ends[1]);
  }
  // A packet for the guest.
  void arrive(const Bytes& packet) {
    REQUIRE(::send(far.get(), packet.data(), packet.size(), 0) == static_cast<ssize_t>(packet.size()));
  }
  // The next packet of the guest's; empty when there is none.
  Bytes take() {
    Bytes packet(100000);
    const ssize_t n = ::recv(far.get(), packet.data(), packet.size(), 0);
    packet.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
    return packet;
  }
  std::size_t take_all() {
    std::size_t count = 0;
    while (!take().empty()) ++count;
    return count;
  }

  base::UniqueFd near;
  base::UniqueFd far;
  std::uint64_t offloads = kAllOffloads;
  std::vector<std::uint64_t> features;  // each that was set
  std::optional<int> features_error;
  std::optional<int> read_error;
  std::optional<int> write_error;
  std::function<void()> before_write;
  int reads = 0;
  int writes = 0;
};

class FakeBackend : public virtio::net::Backend {
 public:
  explicit FakeBackend(FakeNetwork& network) : network_(network) {}
  [[nodiscard]] int fd() const override { return network_.near.get(); }
  [[nodiscard]] std::uint64_t offloads() const override { return network_.offloads; }
  base::Status set_features(std::uint64_t features) override {
    if (network_.features_error) return base::fail_errno(*network_.features_error, "told to fail");
    network_.features.push_back(features);
    return {};
  }
  Moved read(std::span<const iovec> pieces) override {
    ++network_.reads;
    if (network_.read_error) return std::unexpected(*network_.read_error);
    return moved(::readv(fd(), pieces.data(), static_cast<int>(pieces.size())));
  }
  Moved write(std::span<const iovec> pieces) override {
    ++network_.writes;
    if (network_.before_write) network_.before_write();
    if (network_.write_error) return std::unexpected(*network_.write_error);
    return moved(::writev(fd(), pieces.data(), static_cast<int>(pieces.size())));
  }

 private:
  static Moved moved(ssize_t n) {
    if (n < 0) return std::unexpected(errno);
    if (n == 0) return std::unexpected(EBADFD);  // the other end was closed
    return static_cast<std::size_t>(n);
  }
  FakeNetwork& network_;
};

struct NetOptions {
  std::uint64_t declined = 0;  // features that the driver does not accept
  std::optional<std::uint16_t> mtu = {};
  bool allow_spoofing = false;
  std::uint16_t queue_size = virtio::net::kQueueSize;
  std::uint64_t offloads = kAllOffloads;
  virtio::RateLimiterConfig rx_limit = {};
  virtio::RateLimiterConfig tx_limit = {};
  std::shared_ptr<const mmds::Service> metadata = {};
};

struct NetBench {
  explicit NetBench(const NetOptions& chosen = {})
      : options(chosen),
        device(make()),
        transport(*device, guest.memory(), [this] { ++irqs; }),
        registers(transport),
        features(registers.offered() & ~options.declined),
        rx(guest, options.queue_size, features),
        tx(guest, options.queue_size, features) {
    start(rx, tx);
  }
  std::unique_ptr<virtio::net::Device> make() {
    network.offloads = options.offloads;
    const virtio::net::Config config = {.id = "eth0",
                                        .tap = "tap0",
                                        .mac = kGuestMac,
                                        .mtu = options.mtu,
                                        .allow_spoofing = options.allow_spoofing,
                                        .rx_rate_limiter = options.rx_limit,
                                        .tx_rate_limiter = options.tx_limit,
                                        .metadata = options.metadata};
    return virtio::net::Device::create(
               config, *loop,
               [this](const std::string&) -> base::Result<std::unique_ptr<virtio::net::Backend>> {
                 return std::make_unique<FakeBackend>(network);
               })
        .value();
  }
  void start(const DriverQueue& receive, const DriverQueue& send) {
    REQUIRE(registers.negotiate(features));
    registers.set_queue(0, receive.layout());
    registers.set_queue(1, send.layout());
    registers.start();
    REQUIRE(registers.status() == 15);
  }

  // Some rounds of the event loop; in each, whatever is ready gets its turn.
  void rounds(int count = 8) {
    std::function<void()> next = [&] {
      if (--count > 0) return loop->post(next);
      loop->stop();
    };
    loop->post(next);
    REQUIRE(loop->run());
  }
  // Rounds until `done`, or a minute is over.
  void until(const std::function<bool()>& done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    while (!done() && std::chrono::steady_clock::now() < deadline) rounds(1);
    REQUIRE(done());
  }

  // A receive buffer of `size` bytes, in pieces of at most `split`.
  std::uint16_t offer(std::uint32_t size, std::uint32_t split = ~0U) {
    return ChainBuilder(guest).writable(size).split(split).submit(rx);
  }
  void kick_rx() { registers.notify(0); }
  // Sends one chain and looks whether it came back with nothing written.
  void send(const ChainBuilder& chain) {
    const auto head = tx.submit(chain.buffers());
    registers.notify(1);
    const auto used = tx.take_used();
    REQUIRE(used);
    CHECK(used->id == head);
    CHECK(used->length == 0);
  }
  void send(const Bytes& packet) { send(ChainBuilder(guest).readable(packet)); }
  virtio::net::Metrics metrics() {
    const std::lock_guard lock(device->mutex());
    return device->metrics();
  }
  virtio::net::State save() {
    const std::lock_guard lock(device->mutex());
    return device->save();
  }
  std::uint16_t link_status() { return registers.read<std::uint16_t>(reg::kConfig + 6); }

  NetOptions options;
  FakeGuest guest;
  FakeNetwork network;
  std::unique_ptr<base::EventLoop> loop = base::EventLoop::create().value();
  std::atomic<int> irqs = 0;
  std::unique_ptr<virtio::net::Device> device;
  virtio::MmioTransport transport;
  MmioDriver registers;
  std::uint64_t features;
  DriverQueue rx;
  DriverQueue tx;
};

inline std::uint16_t buffers_of(const Bytes& received) {
  virtio::net::Header header;
  REQUIRE(received.size() >= sizeof(header));
  std::ranges::copy(std::span(received).first(sizeof(header)),
                    std::as_writable_bytes(std::span(&header, 1)).begin());
  return header.num_buffers;
}

// What the driver finds for one frame: all chains that it is spread over, joined and cut to what was written.
inline Bytes receive(NetBench& b) {
  Bytes all;
  unsigned chains = 1;
  for (unsigned i = 0; i < chains; ++i) {
    const auto used = b.rx.take_used();
    REQUIRE(used);
    Bytes part = b.rx.bytes_of(used->id);
    REQUIRE(used->length <= part.size());
    part.resize(used->length);
    if (i == 0) chains = buffers_of(part);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

inline Bytes expected(const Bytes& frame, std::uint16_t chains, virtio::net::Header header = {}) {
  header.num_buffers = chains;
  return packet(frame, header);
}

inline std::string text(std::size_t size) {
  std::string all(size, ' ');
  for (std::size_t i = 0; i < size; ++i) all[i] = static_cast<char>('a' + i % 23 + i / 997 % 3);
  return all;
}

}  // namespace mayfly::test
