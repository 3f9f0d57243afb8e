// A session with a guest that the test plays, over socket pairs.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "cli/session.h"

namespace mayfly::cli::test {

namespace agent = base::agent;

struct FdPair {
  base::UniqueFd near;  // the session's
  base::UniqueFd far;   // the test's; blocking
};

inline FdPair socket_pair() {
  std::array<int, 2> fds{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()) == 0);
  return {base::UniqueFd(fds[0]), base::UniqueFd(fds[1])};
}

// What the guest does. No checks here: some tests run it on a thread of its own.
class FakeGuest {
 public:
  // The session's end of a new connection.
  base::UniqueFd connect(agent::Stream stream, std::uint32_t session = 7) {
    FdPair pair = socket_pair();
    fds[static_cast<std::size_t>(stream)] = std::move(pair.far);
    send(stream, agent::Preamble{.magic = agent::kMagic,
                                 .version = agent::kVersion,
                                 .stream = static_cast<std::uint16_t>(stream),
                                 .session = session});
    return std::move(pair.near);
  }
  template <typename T>
  void send(agent::Stream stream, const T& value) {
    [[maybe_unused]] const ssize_t n = ::send(fd(stream), &value, sizeof(value), MSG_NOSIGNAL);
  }
  template <typename T>
  void frame(agent::Frame type, const T& body) {
    send(agent::Stream::kControl,
         agent::FrameHeader{.type = static_cast<std::uint32_t>(type), .length = sizeof(body)});
    send(agent::Stream::kControl, body);
  }
  void hello() { frame(agent::Frame::kHello, agent::Hello{.init_started_ns = 1, .now_ns = 2}); }
  void started() { frame(agent::Frame::kStarted, agent::Started{.now_ns = 3, .pid = 4, .reserved = 0}); }
  void exited(std::uint32_t status) {
    frame(agent::Frame::kExited, agent::Exited{.now_ns = 5, .exit_status = status, .signal = 0});
  }
  // Output is over.
  void close_outputs() {
    close(agent::Stream::kStdout);
    close(agent::Stream::kStderr);
  }
  void close(agent::Stream stream) { fds[static_cast<std::size_t>(stream)].reset(); }
  void write(agent::Stream stream, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = ::send(fd(stream), text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(n));
    }
  }
  // Blocks until there is a frame.
  struct Received {
    std::uint32_t type = 0;
    std::string body;
  };
  Received receive() {
    agent::FrameHeader header;
    if (::recv(fd(agent::Stream::kControl), &header, sizeof(header), MSG_WAITALL) != sizeof(header))
      return {};
    Received received{.type = header.type, .body = std::string(header.length, '\0')};
    if (!received.body.empty()) {
      [[maybe_unused]] const ssize_t n =
          ::recv(fd(agent::Stream::kControl), received.body.data(), received.body.size(), MSG_WAITALL);
    }
    return received;
  }
  int fd(agent::Stream stream) const { return fds[static_cast<std::size_t>(stream)].get(); }

  std::array<base::UniqueFd, 4> fds;
};

// The session and our side of its standard streams.
class SessionFixture {
 public:
  static constexpr std::chrono::seconds kDeadline{120};  // only a hang gets there

  SessionFixture() {
    auto created = base::EventLoop::create();
    REQUIRE(created.has_value());
    loop = std::move(*created);
    FdPair in = socket_pair();
    FdPair out = socket_pair();
    FdPair err = socket_pair();
    input = std::move(in.far);
    output = std::move(out.far);
    errors = std::move(err.far);
    streams = {ByteEnd::own(std::move(in.near)), ByteEnd::own(std::move(out.near)),
               ByteEnd::own(std::move(err.near))};
  }

  void start() {
    auto created = Session::create(*loop, std::move(streams), request,
                                   {.on_frame = [this](const GuestFrame& frame) { frames.push_back(frame); },
                                    .on_local_error = [this](const std::string& text) { local_error = text; },
                                    .on_end =
                                        [this](const SessionEnd& ended) {
                                          end = ended;
                                          loop->stop();
                                        }});
    REQUIRE(created.has_value());
    session = std::move(*created);
  }
  // All four streams.
  void connect_all() {
    for (const auto stream :
         {agent::Stream::kControl, agent::Stream::kStdin, agent::Stream::kStdout, agent::Stream::kStderr}) {
      session->add_stream(guest.connect(stream));
    }
  }
  // Until the session ended.
  SessionEnd run() {
    auto deadline = base::Timer::create(*loop, [this] {
      timed_out = true;
      loop->stop();
    });
    REQUIRE(deadline.has_value());
    (*deadline)->set(kDeadline);
    REQUIRE(loop->run().has_value());
    REQUIRE(!timed_out);
    REQUIRE(end.has_value());
    return *end;
  }
  // All that is in a stream of ours, which the session must have closed by now.
  static std::string read_all(const base::UniqueFd& fd) {
    std::string all;
    std::array<char, 65536> buffer;
    for (;;) {
      const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
      if (n <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }

  std::unique_ptr<base::EventLoop> loop;
  StartRequest request{.arguments = {"true"}};
  StandardStreams streams;
  std::unique_ptr<Session> session;
  FakeGuest guest;
  base::UniqueFd input;
  base::UniqueFd output;
  base::UniqueFd errors;
  std::vector<GuestFrame> frames;
  std::string local_error;
  std::optional<SessionEnd> end;
  bool timed_out = false;
};

}  // namespace mayfly::cli::test
