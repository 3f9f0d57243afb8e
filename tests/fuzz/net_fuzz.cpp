// The network device behind its registers, against an arbitrary driver: register accesses in any order, rings
// and frames of any content, a network that fails, fills up, goes away, and brings frames of any kind.
#include <sys/eventfd.h>

#include <cerrno>
#include <deque>
#include <vector>

#include "base/unique_fd.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/quiet_loop.h"
#include "tests/fuzz/ring_writer.h"
#include "tests/support/mmio_driver.h"
#include "virtio/net/device.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::uint64_t kPackets = 0x17000;
constexpr net::MacAddress kMac = {2, 1, 2, 3, 4, 5};

struct Network {
  std::deque<std::vector<std::byte>> arriving = {};
  std::uint64_t features = 0;  // of the driver
  int read_error = 0;
  int write_error = 0;
  bool may_spoof = false;
  std::span<std::byte> guest;  // its low memory
};

// Checks all that it is asked to send.
class CheckingBackend : public net::Backend {
 public:
  explicit CheckingBackend(Network& network)
      : network_(network), fd_(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  [[nodiscard]] int fd() const override { return fd_.get(); }
  [[nodiscard]] std::uint64_t offloads() const override {
    return net::kFeatureCsum | net::kFeatureGuestCsum | net::kFeatureGuestTso4 | net::kFeatureGuestTso6 |
           net::kFeatureGuestEcn | net::kFeatureGuestUfo | net::kFeatureHostTso4 | net::kFeatureHostTso6 |
           net::kFeatureHostEcn | net::kFeatureHostUfo;
  }
  base::Status set_features(std::uint64_t features) override {
    network_.features = features;
    return {};
  }
  Moved read(std::span<const iovec> pieces) override {
    require(pieces.size() <= 1024);
    if (network_.read_error != 0) return std::unexpected(network_.read_error);
    if (network_.arriving.empty()) return std::unexpected(EAGAIN);
    const std::vector<std::byte> packet = std::move(network_.arriving.front());
    network_.arriving.pop_front();
    std::size_t done = 0;
    for (const iovec& piece : pieces) {
      const std::size_t part = std::min(piece.iov_len, packet.size() - done);
      if (part > 0) std::memcpy(piece.iov_base, packet.data() + done, part);
      done += part;
    }
    return done;
  }
  Moved write(std::span<const iovec> pieces) override {
    // A guest that writes to its memory now must not be able to change what was checked.
    std::ranges::fill(network_.guest.subspan(kPackets, 64), std::byte{0xff});
    require(pieces.size() <= 1024);
    std::vector<std::byte> packet;
    for (const iovec& piece : pieces) {
      const auto* bytes = static_cast<const std::byte*>(piece.iov_base);
      packet.insert(packet.end(), bytes, bytes + piece.iov_len);
    }
    check(packet);
    if (network_.write_error != 0) return std::unexpected(network_.write_error);
    return packet.size();
  }

 private:
  void check(std::span<const std::byte> packet) const {
    require(packet.size() >= sizeof(net::Header) + net::kSmallestFrame);
    require(packet.size() <= sizeof(net::Header) + net::kLargestFrame);
    net::Header header;
    std::memcpy(&header, packet.data(), sizeof(header));
    const std::size_t length = packet.size() - sizeof(header);
    require((header.flags & ~net::kFlagNeedsCsum) == 0);
    if (header.flags != 0) {
      require((network_.features & net::kFeatureCsum) != 0);
      require(header.csum_start >= net::kSmallestFrame);
      require(std::size_t{header.csum_start} + header.csum_offset + 2 <= length);
    }
    if (header.gso_type != net::kGsoNone) require(header.flags != 0 && header.gso_size != 0);
    require(header.hdr_len <= length);
    if (!network_.may_spoof)
      require(std::memcmp(packet.data() + sizeof(header) + 6, kMac.data(), kMac.size()) == 0);
  }
  Network& network_;
  base::UniqueFd fd_;
};

net::Header some_header(Input& input) {
  net::Header header;
  header.flags = input.byte();
  header.gso_type = input.byte();
  header.hdr_len = static_cast<std::uint16_t>(input.number());
  header.gso_size = static_cast<std::uint16_t>(input.number());
  header.csum_start = static_cast<std::uint16_t>(input.number());
  header.csum_offset = static_cast<std::uint16_t>(input.number());
  return header;
}

void submit_frame(test::FakeGuest& guest, test::DriverQueue& tx, fuzz::RingWriter& writer, Input& input) {
  guest.store(GuestAddress(kPackets), some_header(input));
  net::EthernetHeader ethernet{.destination = {}, .source = kMac, .type = {8, 0}};
  if (input.byte() < 16) ethernet.source[5] = input.byte();
  guest.store(GuestAddress(kPackets + sizeof(net::Header)), ethernet);
  const auto first = static_cast<std::uint32_t>(1 + input.byte() % 64);
  tx.write_descriptor(0, {kPackets, first, test::kNext, std::uint16_t{1}});
  tx.write_descriptor(1, {kPackets + first, 64 - first + 1, test::kNext, std::uint16_t{2}});
  tx.write_descriptor(2, {writer.address(input), static_cast<std::uint32_t>(input.number()), std::uint16_t{0},
                          std::uint16_t{0}});
  tx.make_available(0);
}

void arrive(Network& network, Input& input) {
  if (network.arriving.size() > 8) return;
  const net::Header header = input.byte() < 128 ? net::Header{} : some_header(input);
  std::vector<std::byte> packet(std::min<std::uint64_t>(input.number(), 70000), std::byte{0x5a});
  if (packet.empty()) return;
  std::memcpy(packet.data(), &header, std::min(packet.size(), sizeof(header)));
  network.arriving.push_back(std::move(packet));
}

void run(base::EventLoop& loop, MmioTransport& transport, test::FakeGuest& guest, Network& network,
         Input& input, std::uint16_t queue_size) {
  test::MmioDriver registers(transport);
  const auto queue = [&](std::uint64_t start) {
    return test::DriverQueue(guest,
                             {.size = queue_size,
                              .descriptor_table = GuestAddress(start),
                              .available_ring = GuestAddress(start + 0x1000),
                              .used_ring = GuestAddress(start + 0x1800)},
                             0);
  };
  test::DriverQueue rx = queue(0x10000);
  test::DriverQueue tx = queue(0x12000);
  fuzz::RingWriter rx_writer(guest, rx, GuestAddress(0x14000));
  fuzz::RingWriter tx_writer(guest, tx, GuestAddress(0x14000));
  static constexpr std::array kErrors = {0, EAGAIN, EINVAL, EIO, EBADFD, ENOBUFS, 0, 0};
  while (!input.empty()) {
    const std::uint8_t act = input.byte();
    switch (act % 16) {
      case 0:
      case 1:
        rx_writer.act(input);
        break;
      case 2:
        tx_writer.act(input);
        break;
      case 3:
      case 4:
        submit_frame(guest, tx, tx_writer, input);
        break;
      case 5: {
        const std::uint8_t index =
            input.byte() % static_cast<std::uint8_t>(std::min<unsigned>(queue_size, 255));
        rx.write_descriptor(index, {rx_writer.address(input), static_cast<std::uint32_t>(input.number()),
                                    test::kWrite, std::uint16_t{0}});
        rx.make_available(index);
        break;
      }
      case 6:
        arrive(network, input);
        break;
      case 7:
      case 8:
        registers.notify(input.byte() & 1U);
        break;
      case 9:
        registers.negotiate(input.byte() >= 64 ? registers.offered() : input.number() | kFeatureVersion1);
        registers.set_queue(0, rx.layout());
        registers.set_queue(1, tx.layout());
        registers.start();
        break;
      case 10:
        registers.write(std::uint64_t{input.byte()} * 4, static_cast<std::uint32_t>(input.number()));
        break;
      case 11:
        registers.read(std::uint64_t{input.byte()} * 4);
        break;
      case 12:
        network.read_error = kErrors[input.byte() % kErrors.size()];
        break;
      case 13:
        network.write_error = kErrors[input.byte() % kErrors.size()];
        break;
      case 14:
        fuzz::one_round(loop);
        break;
      default:
        while (rx.take_used()) {
        }
        while (tx.take_used()) {
        }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  test::FakeGuest& guest = fuzz::fresh_guest();
  base::EventLoop& loop = fuzz::quiet_loop();
  Input input(data, size);
  const std::uint8_t mode = input.byte();
  Network network{.may_spoof = (mode & 1U) != 0,
                  .guest = guest.memory().slice(GuestAddress(0), fuzz::kMemory).value()};
  const net::Config config = {
      .id = "eth0", .tap = "fuzz", .mac = kMac, .mtu = 1500, .allow_spoofing = network.may_spoof};
  const auto device =
      net::Device::create(config, loop,
                          [&](const std::string&) -> base::Result<std::unique_ptr<net::Backend>> {
                            return std::make_unique<CheckingBackend>(network);
                          })
          .value();
  MmioTransport transport(*device, guest.memory(), [] {});
  run(loop, transport, guest, network, input, static_cast<std::uint16_t>(1U << ((mode >> 1U) & 7U)));
  return 0;
}
