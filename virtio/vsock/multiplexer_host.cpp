// The host's side of the multiplexer: programs that connect, sockets, and time running out.
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/log.h"
#include "virtio/vsock/multiplexer.h"

namespace mayfly::virtio::vsock {

using base::Result;
using base::UniqueFd;
using Clock = Multiplexer::Clock;

namespace {

constexpr std::uint32_t kWatched = EPOLLIN | EPOLLRDHUP | EPOLLET;

// Host ports of connections that the host asks for come from the upper half of the signed numbers, where no
// well-known service is.
constexpr std::uint32_t kFirstHostPort = 1U << 30U;
constexpr std::uint32_t kLastHostPort = (1U << 31U) - 1;

// Programs taken from the backlog before other events get their turn.
constexpr int kAcceptsAtOnce = 16;
// Out of file descriptors: when to look again.
constexpr std::chrono::milliseconds kAcceptRetry{100};

std::size_t affordable(std::size_t connections) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY) return connections;
  const std::size_t files = limit.rlim_cur;
  // With a very low limit the rest of the process keeps three quarters.
  const std::size_t left = files > 2 * kReservedFds ? files - kReservedFds : files / 4;
  return std::min(connections, std::max<std::size_t>(left, 1));
}

}  // namespace

Result<std::unique_ptr<Multiplexer>> Multiplexer::create(const Config& config, const Limits& limits,
                                                         base::EventLoop& loop, std::mutex& mutex,
                                                         Counters& counters, std::function<void()> wake) {
  Limits affordable_limits = limits;
  affordable_limits.connections = affordable(limits.connections);
  Listener listener = TRY(Listener::create(config.uds_path));
  std::unique_ptr<Multiplexer> multiplexer(new Multiplexer(config, affordable_limits, std::move(listener),
                                                           loop, mutex, counters, std::move(wake)));
  Multiplexer* self = multiplexer.get();
  multiplexer->timer_ = TRY(base::Timer::create(
      loop, [self] { self->deadline_passed(); }, &mutex));
  return multiplexer;
}

Multiplexer::Multiplexer(const Config& config, const Limits& limits, Listener listener, base::EventLoop& loop,
                         std::mutex& mutex, Counters& counters, std::function<void()> wake)
    : guest_cid_(config.guest_cid),
      uds_path_(config.uds_path),
      limits_(limits),
      loop_(loop),
      mutex_(mutex),
      counters_(counters),
      wake_(std::move(wake)),
      listener_(std::move(listener)),
      next_host_port_(kFirstHostPort) {}

Multiplexer::~Multiplexer() {
  stop();
}

void Multiplexer::start() {
  running_ = true;
  resume_accepting();
}

void Multiplexer::stop() {
  running_ = false;
  if (accepting_) loop_.remove(listener_.fd());
  accepting_ = false;
  while (!idle_.empty()) drop(idle_.front());
  while (!ready_.empty()) drop(ready_.front());
  deadlines_.clear();
  retry_pending_ = false;
  timer_->cancel();
  timer_set_.reset();
  resets_.clear();
}

// ---- Programs that connect ----

void Multiplexer::resume_accepting() {
  if (!running_ || accepting_ || retry_pending_ || connection_count() >= limits_.connections) return;
  const auto added = loop_.add(
      listener_.fd(), EPOLLIN, [this](std::uint32_t) { accept_programs(); }, &mutex_);
  accepting_ = added.has_value();
  if (!added) pause_accepting(kAcceptRetry);
}

// The listener is watched level-triggered, so it is not watched while nothing can be accepted.
void Multiplexer::pause_accepting(Clock::duration retry) {
  if (accepting_) loop_.remove(listener_.fd());
  accepting_ = false;
  if (retry == Clock::duration::zero()) return;
  retry_pending_ = true;
  set_deadline(nullptr, retry);
}

void Multiplexer::accept_programs() {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    // drop() resumes.
    if (connection_count() >= limits_.connections) return pause_accepting(Clock::duration::zero());
    auto socket = listener_.accept();
    if (!socket) {
      if (log_limiter_.allow()) base::log::warning("vsock: {}", socket.error().message);
      return pause_accepting(kAcceptRetry);
    }
    if (!*socket) return;
    Stream* stream = add_stream(std::move(**socket), Stage::kLine);
    if (stream != nullptr) set_deadline(stream, limits_.connect_line);
  }
}

Multiplexer::Stream* Multiplexer::add_stream(UniqueFd socket, Stage stage) {
  idle_.emplace_back();
  Stream& stream = idle_.back();
  stream.stage = stage;
  stream.socket = std::move(socket);
  stream.self = std::prev(idle_.end());
  // What is readable already is an event of its own.
  const auto watched = loop_.add(
      stream.socket.get(), kWatched, [this, &stream](std::uint32_t events) { socket_event(stream, events); },
      &mutex_);
  if (watched) return &stream;
  ++counters_.host_errors;
  idle_.pop_back();
  return nullptr;
}

void Multiplexer::read_line(Stream& stream) {
  while (!stream.line.complete()) {
    std::array<char, ConnectLine::kLongest> seen{};
    const auto bytes = std::as_writable_bytes(std::span(seen).first(stream.line.room()));
    const Transfer peeked =
        bytes.empty() ? Transfer{Transfer::Status::kFailed} : peek_socket(stream.socket.get(), bytes);
    if (peeked.status == Transfer::Status::kBlocked) return;
    if (peeked.status != Transfer::Status::kSome) break;
    // Only the line itself is taken off the socket; what is behind it is for the guest.
    const std::size_t taken = stream.line.take({seen.data(), peeked.bytes});
    const auto line = bytes.first(taken);
    if (read_socket(stream.socket.get(), std::span(&line, 1)).bytes != taken) break;
  }
  if (const auto port = stream.line.port()) return request_from_host(stream, *port);
  ++counters_.bad_connect_lines;
  drop(stream);
}

void Multiplexer::request_from_host(Stream& stream, std::uint32_t guest_port) {
  const auto take_port = [this] {
    const std::uint32_t port = next_host_port_;
    next_host_port_ = port == kLastHostPort ? kFirstHostPort : port + 1;
    return port;
  };
  // Ends: there are more ports than connections.
  Ports ports{.host = take_port(), .guest = guest_port};
  while (by_ports_.contains(key(ports))) ports.host = take_port();
  stream.stage = Stage::kConnected;
  stream.connection = Connection::requested_by_host(guest_cid_, ports);
  by_ports_[key(ports)] = &stream;
  cancel_deadline(stream);
  set_deadline(&stream, limits_.guest_answer);
  refresh(stream);
}

void Multiplexer::established(Stream& stream) {
  ++counters_.connections_from_host;
  cancel_deadline(stream);
  const std::string line = ok_line(stream.connection->ports().host);
  const Transfer told = write_socket(stream.socket.get(), line);
  if (told.status == Transfer::Status::kSome && told.bytes == line.size()) {
    // Events that came before were for the line.
    stream.readable = true;
    return refresh(stream);
  }
  if (told.status == Transfer::Status::kEnded) {
    // It closed already, but may have sent something before.
    stream.readable = true;
    host_is_deaf(stream);
    return refresh(stream);
  }
  ++counters_.host_errors;
  reset_from_host(stream);
}

// ---- Sockets ----

void Multiplexer::socket_event(Stream& stream, std::uint32_t events) {
  switch (stream.stage) {
    case Stage::kLine:
      read_line(stream);
      break;
    case Stage::kConnected:
      connected_event(stream, events);
      break;
    case Stage::kDraining:
      flush(stream);
      if (!stream.unsent) drop(stream);
      break;
  }
  wake_();
}

void Multiplexer::connected_event(Stream& stream, std::uint32_t events) {
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) stream.readable = true;
  if (stream.unsent) flush(stream);
  // Nothing can be written to a socket that hung up, whether or not something can still be read.
  if ((events & EPOLLHUP) != 0) host_is_deaf(stream);
  refresh(stream);
}

void Multiplexer::watch(const Stream& stream, std::uint32_t more) {
  if (auto changed = loop_.modify(stream.socket.get(), kWatched | more); !changed) {
    base::log::error("vsock: {}", changed.error().message);
  }
}

// Keeps what the host peer has no room for now. The guest was held to its credit, so there is room for it.
void Multiplexer::buffer(Stream& stream, std::span<const std::span<std::byte>> parts) {
  if (!stream.unsent) {
    if (spare_buffers_.empty()) {
      auto memory = base::Mapping::anonymous(kBufferSize);
      if (!memory) {
        ++counters_.host_errors;
        return reset_from_host(stream);
      }
      spare_buffers_.push_back(std::move(*memory));
    }
    stream.unsent.emplace(std::move(spare_buffers_.back()));
    spare_buffers_.pop_back();
    watch(stream, EPOLLOUT);
  }
  for (const auto& part : parts) stream.unsent->write(part);
  refresh(stream);
}

void Multiplexer::flush(Stream& stream) {
  while (stream.unsent && !stream.unsent->empty()) {
    const auto contents = stream.unsent->contents();
    const Transfer transfer = write_socket(stream.socket.get(), contents);
    if (transfer.status == Transfer::Status::kBlocked) return;
    if (transfer.status != Transfer::Status::kSome) return host_is_deaf(stream);
    stream.unsent->consume(transfer.bytes);
    stream.connection->forwarded(static_cast<std::uint32_t>(transfer.bytes));
  }
  drop_buffer(stream);
  watch(stream, 0);
  if (!stream.connection->guest_sends()) shut_write(stream);
}

void Multiplexer::drop_buffer(Stream& stream) {
  if (!stream.unsent) return;
  if (spare_buffers_.size() < kSpareBuffers) spare_buffers_.push_back(std::move(*stream.unsent).release());
  stream.unsent.reset();
}

void Multiplexer::host_is_deaf(Stream& stream) {
  if (stream.unsent) stream.connection->forwarded(static_cast<std::uint32_t>(stream.unsent->size()));
  drop_buffer(stream);
  stream.host_deaf = true;
  stream.connection->host_reads_no_more();
}

void Multiplexer::shut_write(Stream& stream) {
  if (!std::exchange(stream.write_shut, true)) ::shutdown(stream.socket.get(), SHUT_WR);
}

void Multiplexer::shut_read(Stream& stream) {
  stream.readable = false;
  ::shutdown(stream.socket.get(), SHUT_RD);
}

// ---- Ends ----

// The guest is done with the connection; the host peer still gets all that was sent to it.
void Multiplexer::detach(Stream& stream) {
  if (!stream.unsent) return drop(stream);
  by_ports_.erase(key(stream.connection->ports()));
  cancel_deadline(stream);
  if (stream.ready) idle_.splice(idle_.end(), ready_, stream.self);
  stream.ready = false;
  stream.stage = Stage::kDraining;
}

void Multiplexer::reset_from_host(Stream& stream) {
  if (stream.connection->known_to_guest()) resets_.push_back(stream.connection->reset());
  drop(stream);
}

void Multiplexer::drop(Stream& stream) {
  if (stream.stage == Stage::kConnected) by_ports_.erase(key(stream.connection->ports()));
  cancel_deadline(stream);
  drop_buffer(stream);
  loop_.remove(stream.socket.get());
  (stream.ready ? ready_ : idle_).erase(stream.self);
  resume_accepting();
}

// ---- Time ----

void Multiplexer::set_deadline(Stream* stream, Clock::duration delay) {
  const Clock::time_point when = Clock::now() + delay;
  const auto entry = deadlines_.emplace(when, stream);
  if (stream != nullptr) stream->deadline = entry;
  // A timer that fires too early finds nothing to do and is set anew, which is cheaper than keeping it exact.
  if (timer_set_ && *timer_set_ <= when) return;
  timer_set_ = when;
  timer_->set(delay);
}

void Multiplexer::cancel_deadline(Stream& stream) {
  if (!stream.deadline) return;
  deadlines_.erase(*stream.deadline);
  stream.deadline.reset();
}

void Multiplexer::deadline_passed() {
  const Clock::time_point now = Clock::now();
  timer_set_.reset();
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    Stream* stream = deadlines_.begin()->second;
    if (stream != nullptr) {
      expire(*stream);
      continue;
    }
    deadlines_.erase(deadlines_.begin());
    retry_pending_ = false;
    resume_accepting();
  }
  if (!deadlines_.empty()) {
    timer_set_ = deadlines_.begin()->first;
    timer_->set(*timer_set_ - now);
  }
  wake_();
}

void Multiplexer::expire(Stream& stream) {
  if (stream.stage == Stage::kLine) {
    ++counters_.bad_connect_lines;
    return drop(stream);
  }
  ++(stream.connection->open() ? counters_.close_timeouts : counters_.refused_from_host);
  reset_from_host(stream);
}

}  // namespace mayfly::virtio::vsock
