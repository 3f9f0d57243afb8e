#include "api/http_server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "api/http_exchange.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/thread_name.h"
#include "base/unique_fd.h"

namespace mayfly::api {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;

namespace {

using Clock = std::chrono::steady_clock;

// A client in the middle of a request, or of reading a response, that did nothing for so long counts as idle.
constexpr std::chrono::seconds kPatience{5};
// Requests of one client that are answered before others have their turn.
constexpr int kBatch = 16;
// Bytes that a client may still send after its last response: closing on them would take the response away.
constexpr std::size_t kLinger = 1U << 20U;

// A name for the socket while it is not to be found yet, as long as its own or shorter.
std::string draft_name(const std::string& path) {
  const std::size_t folder = path.rfind('/') + 1;  // 0 where there is none
  return path.substr(0, folder) + fmt::format(".{:x}", ::getpid());
}

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return fail("a socket's path has 1 to {} bytes, and this one {}", sizeof(address.sun_path) - 1,
                path.size());
  }
  path.copy(address.sun_path, path.size());
  return address;
}

// Under another name until it listens, so that whoever finds the socket is answered.
Result<base::UniqueFd> listen_at(const std::string& path) {
  TRY(address_of(path));
  const std::string draft = draft_name(path);
  const sockaddr_un address = TRY(address_of(draft));
  base::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(errno, "create a socket");
  ::unlink(draft.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) < 0) {
    return fail_errno(errno, "bind");
  }
  Status made;
  if (::listen(fd.get(), SOMAXCONN) < 0) {
    made = fail_errno(errno, "listen");
  } else if (::link(draft.c_str(), path.c_str()) < 0) {
    made = errno == EEXIST
               ? fail("it exists already: another process serves it, or it was left behind; remove it then")
               : fail_errno(errno, "link");
  }
  ::unlink(draft.c_str());
  TRY(made);
  return fd;
}

struct Connection {
  base::UniqueFd fd;
  std::string in{};          // what has come and is not answered
  std::size_t needed = 1;    // bytes of it that are worth a look
  std::string out{};         // what is left to send; nothing more is read until it is sent
  bool invited = false;      // 100 Continue was sent for the request that is coming
  bool last = false;         // ends when `out` is sent, and
  std::size_t lingered = 0;  // so many bytes more have come, or none are left
  bool ended = false;        // the client sends no more
  std::uint32_t watched = EPOLLIN;
  Clock::time_point active = Clock::now();

  [[nodiscard]] bool idle(Clock::time_point now) const {
    return (in.empty() && out.empty()) || now - active >= kPatience;
  }
};

class UnixHttpServer final : public HttpServer {
 public:
  UnixHttpServer(std::string path, base::UniqueFd listener, std::unique_ptr<base::EventLoop> loop,
                 std::size_t largest_body, Handler handler)
      : path_(std::move(path)),
        listener_(std::move(listener)),
        exchange_(largest_body, std::move(handler)),
        loop_(std::move(loop)) {}
  ~UnixHttpServer() override {
    ::unlink(path_.c_str());
    loop_->stop();
    if (thread_.joinable()) thread_.join();
  }
  UnixHttpServer(const UnixHttpServer&) = delete;
  UnixHttpServer& operator=(const UnixHttpServer&) = delete;

  Status start(const std::function<Status()>& confine) {
    TRY(loop_->add(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_one(); }));
    retry_ = TRY(base::Timer::create(*loop_, [this] { listen_again(); }));
    // Not a std::promise or a semaphore, which wake as if across processes: one call more for a filter to
    // allow.
    thread_ = std::thread([this, &confine] {
      base::set_thread_name("api");
      Status confined = confine ? confine() : Status{};
      const bool goes_on = confined.has_value();
      {
        const std::lock_guard lock(mutex_);
        confined_ = std::move(confined);
        changed_.notify_all();
      }
      if (!goes_on) return;
      if (auto ran = loop_->run(); !ran) base::log::error("the control socket: {}", ran.error().message);
    });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return confined_.has_value(); });
    return *confined_;
  }

 private:
  using Handle = std::list<Connection>::iterator;

  void accept_one();
  bool make_room();
  void listen_again();
  // Goes on with a connection as far as it can be without waiting; may close it.
  void serve(Handle connection);
  // False: the connection is closed, or something is waited for.
  bool step(Handle connection);
  bool send(Handle connection);
  bool answer(Handle connection);
  bool receive(Handle connection);
  bool linger(Handle connection);
  void wait_for(Handle connection, std::uint32_t events);
  void close(Handle connection);

  const std::string path_;
  base::UniqueFd listener_;
  HttpExchange exchange_;
  std::list<Connection> connections_;
  std::unique_ptr<base::EventLoop> loop_;
  std::unique_ptr<base::Timer> retry_;
  std::mutex mutex_;  // guards confined_
  std::condition_variable changed_;
  std::optional<Status> confined_;  // what came of it, on the thread
  std::thread thread_;
};

void UnixHttpServer::accept_one() {
  if (!make_room()) {
    // All are in the middle of something. New ones wait in the listener's queue.
    static_cast<void>(loop_->modify(listener_.get(), 0));
    retry_->set(std::chrono::milliseconds(100));
    return;
  }
  base::UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    // Descriptors have run out, which an event tells no end of.
    if (errno != EAGAIN && errno != ECONNABORTED && errno != EINTR) {
      static_cast<void>(loop_->modify(listener_.get(), 0));
      retry_->set(std::chrono::milliseconds(100));
    }
    return;
  }
  const int number = fd.get();
  connections_.push_front(Connection{.fd = std::move(fd)});
  const Handle connection = connections_.begin();
  if (!loop_->add(number, EPOLLIN, [this, connection](std::uint32_t) { serve(connection); })) {
    connections_.erase(connection);
    return;
  }
  serve(connection);  // what it has sent already keeps it from being taken for idle
}

bool UnixHttpServer::make_room() {
  if (connections_.size() < kMostConnections) return true;
  // The list is in the order of last activity.
  const auto now = Clock::now();
  for (auto connection = connections_.end(); connection != connections_.begin();) {
    if (!(--connection)->idle(now)) continue;
    close(connection);
    return true;
  }
  return false;
}

void UnixHttpServer::listen_again() {
  static_cast<void>(loop_->modify(listener_.get(), EPOLLIN));
}

void UnixHttpServer::serve(Handle connection) {
  connection->active = Clock::now();
  connections_.splice(connections_.begin(), connections_, connection);
  for (int i = 0; i < kBatch; ++i) {
    if (!step(connection)) return;
  }
  // The event comes again at once when there is something to read or nothing more to write; what is in `in`
  // by now brings none, so wait for the socket to be writable, which it is.
  wait_for(connection, EPOLLOUT);
}

bool UnixHttpServer::step(Handle connection) {
  if (!connection->out.empty()) return send(connection);
  if (connection->last) return linger(connection);
  if (connection->in.size() >= connection->needed && answer(connection)) return true;
  if (connection->ended) {
    close(connection);
    return false;
  }
  return receive(connection);
}

bool UnixHttpServer::send(Handle connection) {
  std::string& out = connection->out;
  const ssize_t n = ::send(connection->fd.get(), out.data(), out.size(), MSG_NOSIGNAL);
  if (n > 0) {
    out.erase(0, static_cast<std::size_t>(n));
    return true;
  }
  if (n < 0 && errno == EINTR) return true;
  if (n < 0 && errno == EAGAIN) {
    wait_for(connection, EPOLLOUT);
  } else {
    close(connection);
  }
  return false;
}

// True: there is a reply.
bool UnixHttpServer::answer(Handle connection) {
  HttpOutcome outcome = exchange_.next(connection->in, connection->invited);
  connection->in.erase(0, outcome.used);
  connection->needed = outcome.used == 0 ? std::max(outcome.needed, connection->in.size() + 1) : 1;
  connection->invited = outcome.used == 0 && (connection->invited || !outcome.reply.empty());
  connection->last = outcome.last;
  connection->out = std::move(outcome.reply);
  return !connection->out.empty();
}

bool UnixHttpServer::receive(Handle connection) {
  std::array<char, 16384> buffer;
  const ssize_t n = ::recv(connection->fd.get(), buffer.data(), buffer.size(), 0);
  if (n > 0) {
    connection->in.append(buffer.data(), static_cast<std::size_t>(n));
    return true;
  }
  if (n == 0) {
    connection->ended = true;
    return true;
  }
  if (errno == EINTR) return true;
  if (errno == EAGAIN) {
    wait_for(connection, EPOLLIN);
  } else {
    close(connection);
  }
  return false;
}

bool UnixHttpServer::linger(Handle connection) {
  if (connection->lingered == 0) ::shutdown(connection->fd.get(), SHUT_WR);
  connection->lingered += connection->in.size() + 1;
  connection->in.clear();
  if (!connection->ended && connection->lingered < kLinger) return receive(connection);
  close(connection);
  return false;
}

void UnixHttpServer::wait_for(Handle connection, std::uint32_t events) {
  if (connection->watched == events) return;
  connection->watched = events;
  static_cast<void>(loop_->modify(connection->fd.get(), events));
}

void UnixHttpServer::close(Handle connection) {
  loop_->remove(connection->fd.get());
  connections_.erase(connection);
}

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::create(const std::string& path, std::size_t largest_body,
                                                       Handler handler, std::function<Status()> confine) {
  auto loop = TRY(base::EventLoop::create());
  auto listener = listen_at(path);
  if (!listener) {
    return base::fail_because(std::move(listener).error(), "the control socket {}", path);
  }
  auto server = std::make_unique<UnixHttpServer>(path, std::move(*listener), std::move(loop), largest_body,
                                                 std::move(handler));
  TRY(server->start(confine));
  return server;
}

}  // namespace mayfly::api
