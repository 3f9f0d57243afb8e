// The metadata service, against arbitrary frames of a guest's: raw ones, and TCP segments that nearly make
// sense, with requests in them, while time passes and the guest takes what is said or does not.
#include <array>
#include <memory>
#include <string>

#include "mmds/responder.h"
#include "tests/fuzz/input.h"
#include "tests/support/guest_frames.h"

using namespace mayfly;
using namespace mayfly::mmds;
using fuzz::Input;
using fuzz::require;

namespace {

constexpr std::size_t kPeers = 4;

std::shared_ptr<Service> make_service(Version version) {
  auto store = std::make_shared<Store>();
  require(store
              ->put(R"({"latest": {"id": "i-1", "list": [1, "two"]}, "large": ")" + std::string(3000, 'x') +
                    "\"}")
              .has_value());
  return Service::create({.network_interfaces = {}, .version = version}, std::move(store)).value();
}

// Where the guest's side of a connection stands, as far as it follows at all.
struct Peer {
  std::uint32_t seq = 0;
  std::uint32_t ack = 0;
};

class Guest {
 public:
  explicit Guest(const std::shared_ptr<Service>& service) : responder_(Responder::create(service).value()) {}

  void act(Input& input) {
    switch (input.byte() % 10) {
      case 0:
        send_raw(input);
        break;
      case 1:
      case 2:
        send_segment(input);
        break;
      case 3:
        connect(input.byte() % kPeers);
        break;
      case 4:
      case 5:
        send_request(input);
        break;
      case 6:
        pass(std::chrono::milliseconds(input.byte()));
        break;
      case 7:
        pass(std::chrono::seconds(input.byte() % 16));
        break;
      case 8:
        hear(input.byte());
        break;
      default:
        hear(100000);
        require(!responder_->wants_to_send());
    }
    const Metrics& metrics = responder_->metrics();
    require(metrics.connections_created - metrics.connections_destroyed <= kMostConnections);
  }
  // A guest that has gone silent is forgotten but for connections at rest.
  void end() {
    for (int i = 0; i < 1000 && (responder_->deadline() || responder_->wants_to_send()); ++i) {
      hear(100000);
      pass(std::chrono::seconds(60));
    }
    require(!responder_->deadline() && !responder_->wants_to_send());
    responder_->reset();
    require(!responder_->wants_to_send());
  }

 private:
  static std::uint16_t port_of(std::size_t peer) { return static_cast<std::uint16_t>(1000 + peer); }
  void take(const test::Frame& frame, bool checksum_left) {
    if (responder_->concerns(std::span(frame).first(std::min(frame.size(), kFrameHead)))) {
      responder_->receive(frame, checksum_left, now_);
    }
  }
  void send_raw(Input& input) {
    test::Frame frame =
        input.byte() % 2 == 0 ? test::arp_request() : test::tcp_frame({.flags = input.byte()});
    for (unsigned changes = input.byte() % 8; changes > 0; --changes) {
      frame[input.byte() % frame.size()] = static_cast<std::byte>(input.byte());
    }
    frame.resize(input.byte() < 200 ? frame.size() : input.byte());
    take(frame, input.byte() % 2 == 0);
  }
  void send_segment(Input& input) {
    const std::size_t which = input.byte() % kPeers;
    const Peer& peer = peers_[which];
    test::Tcp tcp{.from_port = port_of(which),
                  .to_port = static_cast<std::uint16_t>(input.byte() < 250 ? 80 : 81),
                  .seq = peer.seq + static_cast<std::uint32_t>(input.number()),
                  .ack = peer.ack + static_cast<std::uint32_t>(input.number()),
                  .flags = input.byte(),
                  .window = static_cast<std::uint16_t>(input.number())};
    if (input.byte() % 4 == 0) tcp.mss = static_cast<std::uint16_t>(input.number());
    tcp.payload.assign(input.number() % 20000, static_cast<char>(input.byte()));
    take(test::tcp_frame(tcp), input.byte() % 2 == 0);
  }
  void connect(std::size_t which) {
    take(test::tcp_frame(
             {.from_port = port_of(which), .seq = peers_[which].seq++, .flags = test::kTcpSyn, .mss = 1460}),
         false);
    hear(1000);
    tell(which, "");
  }
  void send_request(Input& input) {
    static constexpr std::array<std::string_view, 10> kParts = {"GET ",
                                                                "PUT ",
                                                                "/latest/id",
                                                                "/large",
                                                                "/latest/api/token",
                                                                " HTTP/1.1\r\n",
                                                                "Connection: close\r\n",
                                                                "X-metadata-token-ttl-seconds: 60\r\n",
                                                                "Content-Length: 3\r\n",
                                                                "\r\n"};
    std::string text;
    for (unsigned parts = input.byte() % 12; parts > 0; --parts) {
      const std::uint8_t kind = input.byte();
      text += kind < 200 ? kParts[kind % kParts.size()]
                         : std::string_view(std::string(1, static_cast<char>(input.byte())));
    }
    tell(input.byte() % kPeers, text);
  }
  void tell(std::size_t which, const std::string& text) {
    take(test::tcp_frame({.from_port = port_of(which),
                          .seq = peers_[which].seq,
                          .ack = peers_[which].ack,
                          .payload = text}),
         false);
    peers_[which].seq += static_cast<std::uint32_t>(text.size());
  }
  // What the service says is well-formed, always.
  void hear(unsigned most) {
    for (; most > 0 && responder_->wants_to_send(); --most) {
      test::Frame frame(kLargestReply);
      frame.resize(responder_->next(frame, now_));
      if (test::word_at(frame, 12) == 0x0806) continue;
      // The guest's addresses are whatever the fuzzer made them.
      test::Ends ends;
      for (std::size_t i = 0; i < 6; ++i)
        ends.guest_mac[i] = static_cast<std::uint8_t>(test::byte_at(frame, i));
      const auto tcp = test::read_tcp(frame, ends);
      require(tcp.has_value());
      const std::size_t which = tcp->to_port - std::size_t{1000};
      if (which >= kPeers || (tcp->flags & test::kTcpRst) != 0) continue;
      peers_[which].ack =
          tcp->seq + static_cast<std::uint32_t>(tcp->payload.size()) + ((tcp->flags & 3) != 0 ? 1 : 0);
      peers_[which].seq = tcp->ack;
    }
  }
  void pass(std::chrono::milliseconds time) {
    now_ += time;
    responder_->tick(now_);
  }

  std::unique_ptr<Responder> responder_;
  Time now_ = Time(std::chrono::hours(1));
  std::array<Peer, kPeers> peers_ = {};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto first = make_service(Version::kV1);
  static const auto second = make_service(Version::kV2);
  Input input(data, size);
  Guest guest(input.byte() % 2 == 0 ? first : second);
  while (!input.empty()) guest.act(input);
  guest.end();
  return 0;
}
