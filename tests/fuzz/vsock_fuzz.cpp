// The socket device behind its registers, with real unix sockets on the host: packets, rings and register
// accesses of any kind from the guest, programs of the host's that connect, send, read, and go away. Each
// packet that the guest gets is whole and of a kind it may get, and what is open stays within the limit.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "base/unique_fd.h"
#include "tests/fuzz/guest.h"
#include "tests/fuzz/quiet_loop.h"
#include "tests/fuzz/ring_writer.h"
#include "tests/support/mmio_driver.h"
#include "virtio/vsock/device.h"
#include "virtio/vsock/packet.h"

using namespace mayfly;
using namespace mayfly::virtio;
using base::GuestAddress;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::uint64_t kPackets = 0x17000;
constexpr std::uint64_t kReceive = 0x20000;  // a buffer of kReceiveSize for each descriptor
constexpr std::uint32_t kReceiveSize = 512;
constexpr std::uint16_t kQueueSize = 32;
constexpr std::uint32_t kGuestCid = 3;
constexpr std::uint32_t kPort = 52;
constexpr std::size_t kMostConnections = 8;

// For the sockets of one run. libFuzzer ends without running destructors of static objects.
struct Folder {
  std::string path = std::filesystem::temp_directory_path() / "vsock_fuzz.XXXXXX";
  Folder() { require(::mkdtemp(path.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path); }
};

class Host {
 public:
  explicit Host(const std::string& uds_path) : uds_path_(uds_path), listener_(make_socket()) {
    const std::string path = uds_path + "_" + std::to_string(kPort);
    ::unlink(path.c_str());
    const sockaddr_un address = address_of(path);
    require(::bind(listener_.get(), generic(address), sizeof(address)) == 0);
    require(::listen(listener_.get(), 4) == 0);
  }

  void act(Input& input) {
    switch (input.byte() % 8) {
      case 0:
        connect(input);
        break;
      case 1:
        accept();
        break;
      case 2:
      case 3:
        send(input, input.byte() * std::size_t{64});
        break;
      case 4:
      case 5:
        receive();
        break;
      case 6:
        if (!sockets_.empty()) ::shutdown(some(input), static_cast<int>(input.byte() % 3U));
        break;
      default:
        if (!sockets_.empty()) sockets_.erase(sockets_.begin() + input.byte() % sockets_.size());
    }
  }

 private:
  static base::UniqueFd make_socket() {
    return base::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  }
  static sockaddr_un address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path, address.sun_path);
    return address;
  }
  static const sockaddr* generic(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
  }
  int some(Input& input) { return sockets_[input.byte() % sockets_.size()].get(); }

  void connect(Input& input) {
    if (sockets_.size() >= 2 * kMostConnections) return;
    base::UniqueFd socket = make_socket();
    const sockaddr_un address = address_of(uds_path_);
    if (::connect(socket.get(), generic(address), sizeof(address)) != 0) return;
    std::string line = "CONNECT " + std::to_string(input.number() % 8 == 0 ? input.number() : 1000) + "\n";
    if (input.byte() < 16) line.resize(input.byte() % (line.size() + 1));
    if (input.byte() < 16) line.insert(input.byte() % (line.size() + 1), 1, static_cast<char>(input.byte()));
    static_cast<void>(::send(socket.get(), line.data(), line.size(), MSG_NOSIGNAL));
    sockets_.push_back(std::move(socket));
  }
  void accept() {
    base::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket.valid()) sockets_.push_back(std::move(socket));
  }
  void send(Input& input, std::size_t size) {
    if (sockets_.empty()) return;
    const std::vector<char> bytes(size, 'h');
    static_cast<void>(::send(some(input), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  }
  void receive() {
    std::array<char, 4096> bytes;
    for (const base::UniqueFd& socket : sockets_) {
      static_cast<void>(::recv(socket.get(), bytes.data(), bytes.size(), 0));
    }
  }

  std::string uds_path_;
  base::UniqueFd listener_;
  std::vector<base::UniqueFd> sockets_;
};

struct Bench {
  test::FakeGuest& guest;
  vsock::Device& device;
  MmioTransport& transport;
  test::MmioDriver registers;
  test::DriverQueue rx;
  test::DriverQueue tx;
  test::DriverQueue event;
  std::array<bool, kQueueSize> provided{};  // receive buffers that are the device's
  bool started = false;
  bool tidy = true;  // the driver has not yet broken the rules for the receive queue
};

test::DriverQueue queue_at(test::FakeGuest& guest, std::uint64_t start) {
  return {guest,
          {.size = kQueueSize,
           .descriptor_table = GuestAddress(start),
           .available_ring = GuestAddress(start + 0x400),
           .used_ring = GuestAddress(start + 0x800)},
          0};
}

void start(Bench& b, Input& input) {
  if (std::exchange(b.started, true)) b.tidy = false;  // with rings that are not empty
  b.registers.negotiate(input.byte() >= 64 ? b.registers.offered() : input.number() | kFeatureVersion1);
  b.registers.set_queue(0, b.rx.layout());
  b.registers.set_queue(1, b.tx.layout());
  b.registers.set_queue(2, b.event.layout());
  b.registers.start();
}

// Mostly a packet that the device understands, about one of few connections.
void send_packet(Bench& b, fuzz::RingWriter& writer, Input& input) {
  vsock::Header header;
  header.src_cid = kGuestCid;
  header.dst_cid = vsock::kHostCid;
  header.src_port = 1000U + input.byte() % 4U;
  header.dst_port = input.byte() < 200 ? kPort : 0x40000000U + input.byte() % 8U;
  header.type = vsock::kTypeStream;
  header.op = static_cast<std::uint16_t>(input.byte() % 8U);
  header.buf_alloc = 4096U;
  header.flags = input.byte() & 3U;
  std::uint32_t payload = input.byte() % 4U * 700U;
  if (vsock::op_of(header) != vsock::Op::kRw) payload = 0;
  header.len = payload;
  switch (input.byte()) {
    case 0:
      header.src_cid = static_cast<std::uint32_t>(input.number());
      break;
    case 1:
      header.dst_cid = static_cast<std::uint32_t>(input.number());
      break;
    case 2:
      header.len = static_cast<std::uint32_t>(input.number());
      break;
    case 3:
      header.type = static_cast<std::uint16_t>(input.number());
      break;
    case 4:
      header.op = static_cast<std::uint16_t>(input.number());
      break;
    case 5:
      header.buf_alloc = static_cast<std::uint32_t>(input.number());
      break;
    case 6:
      header.fwd_cnt = static_cast<std::uint32_t>(input.number());
      break;
    case 7:
      payload = static_cast<std::uint32_t>(input.number());
      break;
    default:
      break;
  }
  b.guest.store(GuestAddress(kPackets), header);
  const auto cut = static_cast<std::uint32_t>(input.byte() < 32 ? 1 + input.byte() % 43 : 44);
  b.tx.write_descriptor(0, {kPackets, cut, test::kNext, std::uint16_t{1}});
  b.tx.write_descriptor(
      1, {kPackets + cut, 44 - cut + 1, payload > 0 ? test::kNext : std::uint16_t{0}, std::uint16_t{2}});
  b.tx.write_descriptor(2, {writer.address(input), payload, std::uint16_t{0}, std::uint16_t{0}});
  b.tx.make_available(0);
}

void provide(Bench& b, std::uint16_t index) {
  b.provided[index] = true;
  b.rx.write_descriptor(
      index, {kReceive + std::uint64_t{index} * kReceiveSize, kReceiveSize, test::kWrite, std::uint16_t{0}});
  b.rx.make_available(index);
}

void collect(Bench& b) {
  while (const auto used = b.rx.take_used()) {
    // A driver that offers a buffer twice, or scribbles over its rings, may find anything in it.
    if (!b.tidy) continue;
    b.provided[used->id] = false;
    require(used->length >= sizeof(vsock::Header) && used->length <= kReceiveSize);
    const auto header =
        b.guest.load<vsock::Header>(GuestAddress(kReceive + std::uint64_t{used->id} * kReceiveSize));
    require(header.len == used->length - sizeof(vsock::Header));
    require(header.op >= 1 && header.op <= 7);
    require(header.len == 0 || vsock::op_of(header) == vsock::Op::kRw);
    // What refuses a packet repeats its addresses and its type.
    if (vsock::op_of(header) == vsock::Op::kRst) continue;
    require(header.src_cid == vsock::kHostCid && header.dst_cid == kGuestCid);
    require(header.type == vsock::kTypeStream);
  }
  while (b.tx.take_used()) {
  }
}

void run(Bench& b, Host& host, Input& input) {
  fuzz::RingWriter rx_writer(b.guest, b.rx, GuestAddress(0x14000));
  fuzz::RingWriter tx_writer(b.guest, b.tx, GuestAddress(0x14000));
  while (!input.empty()) {
    const std::uint8_t act = input.byte();
    switch (act % 16) {
      case 0:
        start(b, input);
        break;
      case 1:
        for (std::uint16_t i = 0; i < kQueueSize; ++i) {
          if (!b.provided[i]) provide(b, i);
        }
        break;
      case 2:
        b.tidy = false;
        (act & 0x80U) != 0 ? provide(b, input.byte() % kQueueSize) : rx_writer.act(input);
        break;
      case 3:
        b.tidy = false;
        tx_writer.act(input);
        break;
      case 4:
      case 5:
      case 6:
        send_packet(b, tx_writer, input);
        b.registers.notify(1);
        break;
      case 7:
        b.registers.notify(input.byte() % 3U);
        break;
      case 8:
        b.registers.write(std::uint64_t{input.byte()} * 4, static_cast<std::uint32_t>(input.number()));
        b.tidy = false;
        break;
      case 9:
        b.registers.read(std::uint64_t{input.byte()} * 4);
        break;
      case 10:
      case 11:
      case 12:
        host.act(input);
        break;
      default:
        fuzz::one_round(fuzz::quiet_loop());
        collect(b);
    }
    require(b.device.connection_count() <= kMostConnections);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Folder folder;
  test::FakeGuest& guest = fuzz::fresh_guest();
  base::EventLoop& loop = fuzz::quiet_loop();
  Input input(data, size);
  const vsock::Config config = {.guest_cid = kGuestCid, .uds_path = folder.path + "/v"};
  const auto device = vsock::Device::create(config, loop, {.connections = kMostConnections}).value();
  Host host(config.uds_path);
  MmioTransport transport(*device, guest.memory(), [] {});
  Bench bench{guest,
              *device,
              transport,
              test::MmioDriver(transport),
              queue_at(guest, 0x10000),
              queue_at(guest, 0x11000),
              queue_at(guest, 0x12000)};
  run(bench, host, input);
  return 0;
}
