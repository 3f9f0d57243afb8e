#include "tests/unit/vsock/guest.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

namespace mayfly::test {

using vsock::Header;
using vsock::Op;

namespace {

constexpr std::uint16_t kQueueSize = 256;
constexpr std::uint64_t kSendArea = 68 << 10;  // a header and a payload
constexpr std::uint64_t kFeatures =
    virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx;

[[noreturn]] void broken(const std::string& what) {
  throw std::runtime_error("the device broke the protocol: " + what);
}

}  // namespace

void wait_until(const std::function<bool()>& done, std::string_view what) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(4);
  for (int round = 0; !done(); ++round) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("waited in vain: " + std::string(what));
    }
    if (round > 20) std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

Header guest_header(Op op, std::uint32_t guest_port, std::uint32_t host_port, std::uint32_t length) {
  Header header{};
  header.src_cid = kGuestCid;
  header.dst_cid = vsock::kHostCid;
  header.src_port = guest_port;
  header.dst_port = host_port;
  header.len = length;
  header.type = vsock::kTypeStream;
  header.op = static_cast<std::uint16_t>(op);
  header.buf_alloc = 256U << 10U;
  return header;
}

Folder::Folder() {
  std::string name = "/tmp/mayfly-vsock-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
  path_ = name;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

// ---- Driver ----

Driver::Driver(const GuestOptions& options) : options_(options), loop_(base::EventLoop::create().value()) {
  device_ =
      vsock::Device::create({.guest_cid = kGuestCid, .uds_path = uds_path()}, *loop_, options.limits).value();
  for (std::uint16_t i = 0; i < kQueueSize / 2; ++i) send_areas_.push_back(guest_.allocate(kSendArea));
  activate();
  thread_ = std::thread([this] { static_cast<void>(loop_->run()); });
}

Driver::~Driver() {
  loop_->stop();
  thread_.join();
}

void Driver::activate() {
  rx_ = std::make_unique<DriverQueue>(guest_, kQueueSize, kFeatures);
  tx_ = std::make_unique<DriverQueue>(guest_, kQueueSize, kFeatures);
  event_ = std::make_unique<DriverQueue>(guest_, kQueueSize, kFeatures);
  for (const auto& [head, area] : sending_) send_areas_.push_back(area);
  sending_.clear();
  receiving_.clear();
  ChainBuilder(guest_).writable(4).submit(*event_);
  locked([&](vsock::Device& device) {
    virtio::Activation activation{
        .features = kFeatures, .memory = &guest_.memory(), .interrupt = &interrupt_, .queues = {}};
    activation.queues.push_back(rx_->device_queue());
    activation.queues.push_back(tx_->device_queue());
    activation.queues.push_back(event_->device_queue());
    if (!device.activate(std::move(activation))) throw std::runtime_error("activate");
    device.queue_notified(2);
  });
  provide(options_.receive_buffers);
}

void Driver::reset() {
  locked([](vsock::Device& device) { device.reset(); });
}

void Driver::notify(std::uint16_t queue) {
  locked([&](vsock::Device& device) { device.queue_notified(queue); });
}

Driver::Slot Driver::make_receive_slot(std::uint32_t size) {
  const base::GuestAddress start = guest_.allocate(size);
  Slot slot;
  const std::uint32_t piece = options_.header_split == 0 ? size : options_.header_split;
  for (std::uint32_t offset = 0; offset < size; offset += piece) {
    slot.buffers.push_back(
        {.address = start.unchecked_add(offset), .length = std::min(piece, size - offset), .writable = true});
  }
  return slot;
}

void Driver::submit_receive(const Slot& slot) {
  const bool whole = slot.buffers.size() == 1;
  receiving_[whole ? rx_->submit(slot.buffers) : rx_->submit_indirect(slot.buffers)] = slot;
}

void Driver::provide(std::uint16_t n, std::uint32_t size) {
  for (std::uint16_t i = 0; i < n; ++i)
    submit_receive(make_receive_slot(size == 0 ? options_.receive_size : size));
  if (n > 0) notify(0);
}

void Driver::collect_sent() {
  while (const auto used = tx_->take_used()) {
    if (used->length != 0) broken("bytes written to a transmit chain");
    const auto found = sending_.find(used->id);
    if (found == sending_.end()) continue;  // send_bytes()
    send_areas_.push_back(found->second);
    sending_.erase(found);
  }
}

bool Driver::all_sent() {
  collect_sent();
  return sending_.empty();
}

void Driver::queue(const Header& header, std::string_view payload) {
  wait_until(
      [this] {
        collect_sent();
        if (!send_areas_.empty() && tx_->free_descriptors() >= 2) return true;
        kick();
        return false;
      },
      "room in the transmit queue");
  const base::GuestAddress area = send_areas_.back();
  send_areas_.pop_back();
  const base::GuestAddress body = area.unchecked_add(sizeof(Header));
  guest_.store(area, header);
  std::vector<Buffer> buffers = {{.address = area, .length = sizeof(Header), .writable = false}};
  if (!payload.empty()) {
    guest_.write(body, std::as_bytes(std::span(payload)));
    buffers.push_back(
        {.address = body, .length = static_cast<std::uint32_t>(payload.size()), .writable = false});
  }
  sending_[tx_->submit(buffers)] = area;
}

void Driver::kick() {
  if (tx_->should_kick()) notify(1);
}

void Driver::send(const Header& header, std::string_view payload) {
  queue(header, payload);
  kick();
}

void Driver::send_bytes(std::span<const std::byte> bytes, std::uint32_t split) {
  ChainBuilder chain(guest_);
  chain.readable(bytes);
  if (split > 0) chain.split(split);
  chain.submit(*tx_);
  notify(1);
}

std::optional<Packet> Driver::poll() {
  const auto used = rx_->take_used();
  if (!used) return std::nullopt;
  const Slot slot = receiving_.at(used->id);
  receiving_.erase(used->id);
  std::string bytes(used->length, '\0');
  std::size_t done = 0;
  for (const Buffer& buffer : slot.buffers) {
    const auto part = guest_.memory().slice(buffer.address, buffer.length).value();
    const std::size_t n = std::min(part.size(), bytes.size() - done);
    std::memcpy(bytes.data() + done, part.data(), n);
    done += n;
  }
  if (done < used->length) broken("a used length beyond the chain");
  if (options_.reuse_receive_buffers) {
    submit_receive(slot);
    if (rx_->should_kick()) notify(0);
  }
  if (bytes.empty()) return poll();  // given back for being too small
  Packet packet;
  if (bytes.size() < sizeof(Header)) broken("a packet shorter than its header");
  std::memcpy(&packet.header, bytes.data(), sizeof(Header));
  packet.payload = bytes.substr(sizeof(Header));
  if (packet.header.len != packet.payload.size()) broken("a packet's length is not the used length");
  if (packet.header.src_cid_reserved != 0 || packet.header.dst_cid != kGuestCid ||
      packet.header.dst_cid_reserved != 0) {
    broken("a packet's CIDs");
  }
  return packet;
}

Packet Driver::receive() {
  std::optional<Packet> packet;
  wait_until(
      [&] {
        packet = poll();
        return packet.has_value();
      },
      "a packet");
  return *packet;
}

vsock::Counters Driver::counters() {
  return locked([](vsock::Device& device) { return device.save().counters; });
}

std::size_t Driver::connections() {
  return locked([](vsock::Device& device) { return device.connection_count(); });
}

// ---- SocketLayer ----

GuestSocket& SocketLayer::start_connect(std::uint32_t host_port, std::uint32_t guest_port) {
  if (guest_port == 0) guest_port = next_port_++;
  GuestSocket& socket = sockets_[key(host_port, guest_port)];
  socket = {};
  socket.ports = {.host = host_port, .guest = guest_port};
  send(socket, Op::kRequest);
  return socket;
}

GuestSocket& SocketLayer::connect(std::uint32_t host_port, std::uint32_t guest_port) {
  GuestSocket& socket = start_connect(host_port, guest_port);
  run_until([&] { return socket.connected || socket.reset; }, "an answer to a request");
  return socket;
}

void SocketLayer::shutdown(GuestSocket& socket, std::uint32_t flags) {
  socket.own_shutdown |= flags;
  send(socket, Op::kShutdown, {}, socket.own_shutdown);
}

void SocketLayer::forget(GuestSocket& socket) {
  sockets_.erase(key(socket.ports.host, socket.ports.guest));
}

void SocketLayer::send(GuestSocket& socket, Op op, std::string_view payload, std::uint32_t flags) {
  Header header =
      guest_header(op, socket.ports.guest, socket.ports.host, static_cast<std::uint32_t>(payload.size()));
  header.flags = flags;
  header.buf_alloc = socket.buf_alloc;
  header.fwd_cnt = socket.forwarded;
  socket.told_forwarded = socket.forwarded;
  socket.sent += static_cast<std::uint32_t>(payload.size());
  driver_.queue(header, payload);
}

bool SocketLayer::turn() {
  bool busy = false;
  while (const auto packet = driver_.poll()) {
    take(*packet);
    busy = true;
  }
  for (auto& [ports, socket] : sockets_) busy |= transmit(socket);
  driver_.kick();
  return busy;
}

void SocketLayer::run_until(const std::function<bool()>& done, std::string_view what) {
  wait_until(
      [&] {
        // Traffic that never ends must not keep the question from being asked.
        for (int turns = 0; turns < 10 && turn(); ++turns) {
        }
        return done();
      },
      what);
}

bool SocketLayer::transmit(GuestSocket& socket) {
  bool busy = false;
  if (socket.reading && !socket.in.empty()) {
    socket.read += socket.in;
    socket.forwarded += static_cast<std::uint32_t>(socket.in.size());
    socket.in.clear();
    // As Linux has it: when less than one largest packet's room is known to the peer.
    if (!socket.reset && socket.buf_alloc - (socket.received - socket.told_forwarded) < vsock::kMaxPayload) {
      send(socket, Op::kCreditUpdate);
      busy = true;
    }
  }
  while (socket.connected && !socket.reset && !socket.out.empty() && socket.credit() > 0) {
    const std::size_t n = std::min<std::size_t>({socket.out.size(), socket.credit(), vsock::kMaxPayload});
    send(socket, Op::kRw, std::string_view(socket.out).substr(0, n));
    socket.out.erase(0, n);
    busy = true;
  }
  return busy;
}

void SocketLayer::take(const Packet& packet) {
  const Header& header = packet.header;
  const auto found = sockets_.find(key(header.src_port, header.dst_port));
  if (found == sockets_.end()) {
    if (vsock::op_of(header) != Op::kRequest) {
      ++unknown_packets_;
      return;
    }
    GuestSocket& socket = sockets_[key(header.src_port, header.dst_port)];
    socket.ports = {.host = header.src_port, .guest = header.dst_port};
    socket.connected = true;
    socket.peer_buf_alloc = header.buf_alloc;
    if (accepted_) accepted_(socket);
    return send(socket, Op::kResponse);
  }
  GuestSocket& socket = found->second;
  if (vsock::op_of(header) == Op::kRst) {
    socket.reset = true;  // again, when what we sent crossed the first one
    return;
  }
  if (socket.reset) broken("a packet after RST");
  socket.peer_buf_alloc = header.buf_alloc;
  socket.peer_forwarded = header.fwd_cnt;
  if (socket.sent - socket.peer_forwarded > vsock::kBufferSize) broken("fwd_cnt is beyond what was sent");
  switch (vsock::op_of(header)) {
    case Op::kResponse:
      if (socket.connected) broken("a second RESPONSE");
      socket.connected = true;
      return;
    case Op::kRw:
      return take_data(socket, packet);
    case Op::kShutdown:
      if ((socket.peer_shutdown & ~header.flags) != 0) broken("a SHUTDOWN flag was taken back");
      socket.peer_shutdown = header.flags;
      return;
    case Op::kCreditRequest:
      return send(socket, Op::kCreditUpdate);
    case Op::kCreditUpdate:
      return;
    default:
      broken("operation " + std::to_string(header.op));
  }
}

void SocketLayer::take_data(GuestSocket& socket, const Packet& packet) {
  if (!socket.connected) broken("data before RESPONSE");
  if ((socket.peer_shutdown & vsock::kShutdownSend) != 0) broken("data after SHUTDOWN");
  if (packet.payload.empty()) broken("an empty RW");
  socket.in += packet.payload;
  socket.received += static_cast<std::uint32_t>(packet.payload.size());
  if (socket.in.size() > socket.buf_alloc) broken("more data than there is credit for");
}

}  // namespace mayfly::test
