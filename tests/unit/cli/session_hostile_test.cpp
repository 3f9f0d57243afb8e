// The guest does what it wants. The session ends with a reason, in bounded memory, and never waits for ever.
#include <functional>
#include <thread>

#include "cli/session.h"
#include "tests/unit/cli/session_fixture.h"

using namespace mayfly;
using namespace mayfly::cli;
using namespace mayfly::cli::test;
using agent::Frame;
using agent::Stream;
using Catch::Matchers::Contains;
using Kind = SessionEnd::Kind;

namespace {

// A guest that is well-behaved up to a running command, then does `misdeed`.
SessionEnd after_start(const std::function<void(FakeGuest&)>& misdeed) {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    misdeed(f.guest);
  });
  SessionEnd end = f.run();
  guest.join();
  return end;
}

// Bytes on one connection instead of a preamble.
SessionEnd instead_of_preamble(std::string_view bytes) {
  SessionFixture f;
  f.start();
  FdPair pair = socket_pair();
  REQUIRE(::write(pair.far.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  pair.far.reset();
  f.session->add_stream(std::move(pair.near));
  return f.run();
}

}  // namespace

TEST_CASE("frames that make no sense end the session") {
  const auto header = [](std::uint32_t type, std::uint32_t length) {
    return [=](FakeGuest& guest) {
      guest.send(Stream::kControl, agent::FrameHeader{.type = type, .length = length});
    };
  };
  for (const std::uint32_t type : {1U, 2U, 3U, 4U}) {
    CHECK(after_start(header(type, 0xffffffff)).kind == Kind::kBroken);
    CHECK(after_start(header(type, 0)).kind == Kind::kBroken);
  }
  for (const std::uint32_t type : {0U, 5U, 16U, 19U, 0xffffffffU}) {
    CHECK_THAT(after_start(header(type, 0)).message, Contains("unknown type"));
  }
}

TEST_CASE("frames out of order end the session") {
  CHECK(after_start([](FakeGuest& guest) { guest.hello(); }).kind == Kind::kBroken);
  CHECK(after_start([](FakeGuest& guest) { guest.started(); }).kind == Kind::kBroken);
  CHECK(after_start([](FakeGuest& guest) {
          guest.frame(Frame::kFailed, agent::Failed{.exit_status = 127});
        }).kind == Kind::kBroken);
  SessionFixture f;
  f.start();
  f.connect_all();
  f.guest.exited(0);
  CHECK(f.run().kind == Kind::kBroken);
}

TEST_CASE("statuses that do not exist end the session") {
  CHECK(after_start([](FakeGuest& guest) { guest.exited(256); }).kind == Kind::kBroken);
  SessionFixture f;
  f.start();
  f.connect_all();
  f.guest.hello();
  f.guest.frame(Frame::kFailed, agent::Failed{.exit_status = 0});
  CHECK(f.run().kind == Kind::kBroken);
}

TEST_CASE("a control stream that is closed, whole or within a frame, is a guest that went away") {
  CHECK(after_start([](FakeGuest& guest) { guest.close(Stream::kControl); }).kind == Kind::kGone);
  CHECK(after_start([](FakeGuest& guest) {
          guest.write(Stream::kControl, "\4\0\0");
          guest.close(Stream::kControl);
        }).kind == Kind::kGone);
  SessionFixture f;
  f.start();
  f.connect_all();
  f.guest.close(Stream::kControl);
  CHECK(f.run().kind == Kind::kGone);
}

TEST_CASE("preambles that are none end the session") {
  CHECK(instead_of_preamble("").kind == Kind::kBroken);
  CHECK(instead_of_preamble("MFLY").kind == Kind::kBroken);
  CHECK_THAT(instead_of_preamble("GET / HTTP/1").message, Contains("preamble"));
  const auto with = [](std::uint16_t version, std::uint16_t stream) {
    const agent::Preamble preamble{
        .magic = agent::kMagic, .version = version, .stream = stream, .session = 0};
    std::string bytes(sizeof(preamble), '\0');
    std::memcpy(bytes.data(), &preamble, sizeof(preamble));
    return instead_of_preamble(bytes).message;
  };
  CHECK_THAT(with(2, 0), Contains("version 2"));
  CHECK_THAT(with(1, 4), Contains("unknown kind"));
}

TEST_CASE("a preamble may come byte by byte") {
  SessionFixture f;
  f.start();
  for (const auto stream : {Stream::kStdin, Stream::kStdout, Stream::kStderr}) {
    f.session->add_stream(f.guest.connect(stream));
  }
  FdPair pair = socket_pair();
  f.session->add_stream(std::move(pair.near));
  f.guest.fds[0] = std::move(pair.far);
  std::thread guest([&] {
    const agent::Preamble preamble{.magic = agent::kMagic, .version = 1, .stream = 0, .session = 7};
    std::string bytes(sizeof(preamble), '\0');
    std::memcpy(bytes.data(), &preamble, sizeof(preamble));
    for (const char byte : bytes) {
      f.guest.send(Stream::kControl, byte);
      std::this_thread::yield();
    }
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
}

TEST_CASE("a stream that is opened twice, or for another session, ends the session") {
  {
    SessionFixture f;
    f.start();
    f.session->add_stream(f.guest.connect(Stream::kStdin));
    f.session->add_stream(f.guest.connect(Stream::kStdin));
    CHECK_THAT(f.run().message, Contains("twice"));
  }
  SessionFixture f;
  f.start();
  f.session->add_stream(f.guest.connect(Stream::kStdin, 1));
  f.session->add_stream(f.guest.connect(Stream::kStdout, 2));
  CHECK_THAT(f.run().message, Contains("second session"));
}

TEST_CASE("connections that say nothing are counted") {
  SessionFixture f;
  f.start();
  std::vector<base::UniqueFd> silent;
  for (int i = 0; i < 1000 && f.session->wants_streams(); ++i) {
    FdPair pair = socket_pair();
    f.session->add_stream(std::move(pair.near));
    silent.push_back(std::move(pair.far));
  }
  CHECK(silent.size() < 20);
  CHECK_THAT(f.run().message, Contains("says nothing"));
}

TEST_CASE("connections beyond the four streams are closed") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
  FdPair pair = socket_pair();
  f.session->add_stream(std::move(pair.near));
  char byte = 0;
  CHECK(::read(pair.far.get(), &byte, 1) == 0);
}

TEST_CASE("a guest that never reads gets no more signals than fit") {
  SessionFixture f;
  f.start();
  f.connect_all();
  f.guest.hello();
  f.guest.started();
  auto flood = base::Timer::create(*f.loop, [&] {
    for (int i = 0; i < 1'000'000; ++i) f.session->send_signal(1);
    f.guest.close(Stream::kControl);
  });
  (*flood)->set(std::chrono::milliseconds(50));
  CHECK(f.run().kind == Kind::kGone);
}

TEST_CASE("a flood of frames after the end is ignored, and output still drains") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.exited(1);
    const std::string junk(1U << 20U, '\xff');
    f.guest.write(Stream::kControl, junk);
    f.guest.write(Stream::kStdout, "out");
    f.guest.close_outputs();
  });
  const SessionEnd end = f.run();
  // The guest may still be writing its junk to a session that does not read any more.
  f.session.reset();
  guest.join();
  CHECK(end.exit_status == 1);
  CHECK(SessionFixture::read_all(f.output) == "out");
}

TEST_CASE("output that nobody takes does not pile up") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::size_t sent = 0;
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    const std::string part(65536, 'z');
    // Nobody reads `output`: once all buffers are full, this would wait.
    int waits = 0;
    while (sent < (256U << 20U) && waits < 20) {
      const ssize_t n =
          ::send(f.guest.fd(Stream::kStdout), part.data(), part.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n > 0) {
        sent += static_cast<std::size_t>(n);
        waits = 0;
      } else {
        ++waits;
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    }
    f.guest.close(Stream::kControl);
  });
  CHECK(f.run().kind == Kind::kGone);
  guest.join();
  CHECK(sent < (8U << 20U));
}
