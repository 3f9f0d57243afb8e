#include "cli/relay.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <list>
#include <utility>

#include "cli/pump.h"

namespace mayfly::cli {

using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

constexpr int kBacklog = 128;
// Taken from one socket before others have their turn.
constexpr int kBatch = 64;
constexpr std::size_t kLargestDatagram = 65536;

sockaddr_in address_of(const Endpoint& endpoint) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(endpoint.address.value);
  address.sin_port = htons(endpoint.port);
  return address;
}
sockaddr* generic(sockaddr_in& address) {
  return static_cast<sockaddr*>(static_cast<void*>(&address));
}

// Connected, or on the way there.
UniqueFd connect_to(const Endpoint& target, int type) {
  UniqueFd fd(::socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address = address_of(target);
  if (!fd.valid()) return fd;
  if (::connect(fd.get(), generic(address), sizeof(address)) < 0 && errno != EINPROGRESS) fd.reset();
  return fd;
}

UniqueFd duplicate(const UniqueFd& fd) {
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
}

// ---- TCP ----

class TcpRelay final : public Relay {
 public:
  TcpRelay(base::EventLoop& loop, UniqueFd socket, Endpoint target)
      : loop_(loop), socket_(std::move(socket)), target_(target) {}
  ~TcpRelay() override { loop_.remove(socket_.get()); }

  Status start() {
    if (::listen(socket_.get(), kBacklog) < 0) return fail_errno(errno, "listen");
    return loop_.add(socket_.get(), EPOLLIN, [this](std::uint32_t) { accept_some(); });
  }

 private:
  struct Connection {
    std::unique_ptr<Pump> there;
    std::unique_ptr<Pump> back;
    int open = 2;
  };
  using Place = std::list<Connection>::iterator;

  void accept_some();
  Status add(UniqueFd client);
  Status pump(std::unique_ptr<Pump>& pump, Place place, const UniqueFd& from, const UniqueFd& to);
  void ended(Place place, Pump& pump, Pump::Ending ending);

  base::EventLoop& loop_;
  UniqueFd socket_;
  Endpoint target_;
  std::list<Connection> connections_;
  bool full_ = false;
};

void TcpRelay::accept_some() {
  for (int i = 0; i < kBatch; ++i) {
    full_ = connections_.size() >= kMostPeers;
    // They wait in the backlog, and are looked at when a connection has ended.
    if (full_) return static_cast<void>(loop_.modify(socket_.get(), 0));
    UniqueFd client(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!client.valid()) return;
    // One that cannot be passed on is closed, and that is what its other end sees.
    if (!add(std::move(client))) connections_.pop_back();
  }
}

Status TcpRelay::add(UniqueFd client) {
  const Place place = connections_.emplace(connections_.end());
  const UniqueFd guest = connect_to(target_, SOCK_STREAM);
  if (!guest.valid()) return fail_errno(errno, "connect");
  TRY(pump(place->there, place, client, guest));
  return pump(place->back, place, guest, client);
}

// Each direction has descriptors of its own, as it ends by itself.
Status TcpRelay::pump(std::unique_ptr<Pump>& pump, Place place, const UniqueFd& from, const UniqueFd& to) {
  UniqueFd source = duplicate(from);
  UniqueFd sink = duplicate(to);
  if (!source.valid() || !sink.valid()) return fail_errno(errno, "duplicate a file descriptor");
  pump = TRY(Pump::create(
      loop_, ByteEnd::own(std::move(source)), ByteEnd::own(std::move(sink)),
      {.on_end = [this, place, &pump](Pump::Ending ending, int) { ended(place, *pump, ending); }}));
  return {};
}

void TcpRelay::ended(Place place, Pump& pump, Pump::Ending ending) {
  // An end of file is passed on and the other direction goes on; anything else ends both.
  if (ending == Pump::Ending::kSourceEnded) {
    pump.sink().half_close();
    if (--place->open > 0) return;
  }
  connections_.erase(place);
  if (std::exchange(full_, false)) static_cast<void>(loop_.modify(socket_.get(), EPOLLIN));
}

// ---- UDP ----

class UdpRelay final : public Relay {
 public:
  UdpRelay(base::EventLoop& loop, UniqueFd socket, Endpoint target)
      : loop_(loop), socket_(std::move(socket)), target_(target), buffer_(kLargestDatagram) {}
  ~UdpRelay() override {
    loop_.remove(socket_.get());
    for (const Peer& peer : peers_) loop_.remove(peer.socket.get());
  }

  Status start() {
    return loop_.add(socket_.get(), EPOLLIN, [this](std::uint32_t) { there(); });
  }

 private:
  struct Peer {
    sockaddr_in address;
    UniqueFd socket;  // to the target
  };
  void there();
  void back(int socket, sockaddr_in address);
  const Peer* peer_of(const sockaddr_in& address);

  base::EventLoop& loop_;
  UniqueFd socket_;
  Endpoint target_;
  std::list<Peer> peers_;  // who spoke last is the last
  std::vector<std::byte> buffer_;
};

void UdpRelay::there() {
  for (int i = 0; i < kBatch; ++i) {
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    const ssize_t n = ::recvfrom(socket_.get(), buffer_.data(), buffer_.size(), 0, generic(address), &size);
    if (n < 0) return;
    const Peer* const peer = peer_of(address);
    // What cannot be sent is lost, as datagrams are.
    if (peer != nullptr) ::send(peer->socket.get(), buffer_.data(), static_cast<std::size_t>(n), 0);
  }
}

const UdpRelay::Peer* UdpRelay::peer_of(const sockaddr_in& address) {
  const auto known = std::ranges::find_if(peers_, [&](const Peer& peer) {
    return peer.address.sin_port == address.sin_port &&
           peer.address.sin_addr.s_addr == address.sin_addr.s_addr;
  });
  if (known != peers_.end()) {
    peers_.splice(peers_.end(), peers_, known);
    return &peers_.back();
  }
  if (peers_.size() >= kMostPeers) {
    loop_.remove(peers_.front().socket.get());
    peers_.pop_front();
  }
  UniqueFd socket = connect_to(target_, SOCK_DGRAM);
  const int fd = socket.get();
  if (!socket.valid() || !loop_.add(fd, EPOLLIN, [this, fd, address](std::uint32_t) { back(fd, address); })) {
    return nullptr;
  }
  return &peers_.emplace_back(Peer{address, std::move(socket)});
}

void UdpRelay::back(int socket, sockaddr_in address) {
  for (int i = 0; i < kBatch; ++i) {
    const ssize_t n = ::recv(socket, buffer_.data(), buffer_.size(), 0);
    // ECONNREFUSED: nobody listens in there, which is for the sender to find out by silence.
    if (n < 0) return;
    ::sendto(socket_.get(), buffer_.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL, generic(address),
             sizeof(address));
  }
}

}  // namespace

Result<std::unique_ptr<Relay>> Relay::create(base::EventLoop& loop, UniqueFd socket, bool udp,
                                             Endpoint target) {
  if (udp) {
    auto relay = std::make_unique<UdpRelay>(loop, std::move(socket), target);
    TRY(relay->start());
    return relay;
  }
  auto relay = std::make_unique<TcpRelay>(loop, std::move(socket), target);
  TRY(relay->start());
  return relay;
}

}  // namespace mayfly::cli
