#include "cli/session.h"

#include <sys/mman.h>

#include <thread>

#include "tests/unit/cli/session_fixture.h"

using namespace mayfly;
using namespace mayfly::cli;
using namespace mayfly::cli::test;
using agent::Stream;
using Kind = SessionEnd::Kind;

namespace {

// Bytes that differ everywhere, so that a lost or doubled block is seen.
std::string pattern(std::size_t size, std::uint64_t seed) {
  std::string out(size, '\0');
  for (char& c : out) {
    seed = seed * 6364136223846793005U + 1442695040888963407U;
    c = static_cast<char>(seed >> 56U);
  }
  return out;
}

}  // namespace

TEST_CASE("a command's three results arrive, each its own") {
  SessionFixture f;
  f.request = {
      .uid = 5, .gid = 6, .directory = "/tmp", .arguments = {"sh", "-c", "x y"}, .environment = {"A=1"}};
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    const auto start = f.guest.receive();
    f.guest.write(Stream::kStdout, std::to_string(start.type) + start.body.substr(sizeof(agent::Start)));
    f.guest.started();
    f.guest.write(Stream::kStderr, "err\n");
    f.guest.exited(7);
    f.guest.close_outputs();
  });
  const SessionEnd end = f.run();
  guest.join();
  CHECK(!f.session->wants_streams());
  CHECK(end.kind == Kind::kExited);
  CHECK(end.exit_status == 7);
  CHECK(SessionFixture::read_all(f.output) == std::string("16/tmp\0sh\0-c\0x y\0A=1\0", 21));
  CHECK(SessionFixture::read_all(f.errors) == "err\n");
  CHECK(f.frames.size() == 3);
}

TEST_CASE("64 MiB go in and come out unchanged, and their end with them") {
  SessionFixture f;
  f.start();
  f.connect_all();
  const std::string data = pattern(64U << 20U, 1);
  std::string received;
  std::thread writer([&] {
    std::string_view rest = data;
    while (!rest.empty()) {
      const ssize_t n = ::write(f.input.get(), rest.data(), rest.size());
      if (n <= 0) break;
      rest.remove_prefix(static_cast<std::size_t>(n));
    }
    f.input.reset();
  });
  std::thread reader([&] { received = SessionFixture::read_all(f.output); });
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    // cat
    std::array<char, 100000> buffer;
    for (;;) {
      const ssize_t n = ::read(f.guest.fd(Stream::kStdin), buffer.data(), buffer.size());
      if (n <= 0) break;
      f.guest.write(Stream::kStdout, {buffer.data(), static_cast<std::size_t>(n)});
    }
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  writer.join();
  guest.join();
  reader.join();
  CHECK(received.size() == data.size());
  CHECK(received == data);
}

TEST_CASE("regular files serve as standard streams") {
  SessionFixture f;
  const std::string data = pattern(3U << 20U, 2);
  base::UniqueFd in(::memfd_create("in", MFD_CLOEXEC));
  REQUIRE(::write(in.get(), data.data(), data.size()) == static_cast<ssize_t>(data.size()));
  ::lseek(in.get(), 0, SEEK_SET);
  base::UniqueFd out(::memfd_create("out", MFD_CLOEXEC));
  auto standard_in = ByteEnd::standard(in.get(), ByteEnd::Direction::kRead, true);
  auto standard_out = ByteEnd::standard(out.get(), ByteEnd::Direction::kWrite, true);
  REQUIRE((standard_in && standard_out));
  f.streams.input = std::move(*standard_in);
  f.streams.output = std::move(*standard_out);
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    const std::string all = SessionFixture::read_all(f.guest.fds[1]);
    f.guest.write(Stream::kStdout, all);
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
  std::string copy(data.size() + 1, '\0');
  CHECK(::pread(out.get(), copy.data(), copy.size(), 0) == static_cast<ssize_t>(data.size()));
  copy.pop_back();
  CHECK(copy == data);
}

TEST_CASE("standard output that is closed early ends the guest's writing") {
  SessionFixture f;
  f.start();
  f.connect_all();
  bool refused = false;
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    const std::string part(65536, 'y');
    while (::send(f.guest.fd(Stream::kStdout), part.data(), part.size(), MSG_NOSIGNAL) > 0) continue;
    refused = true;
    f.guest.exited(141);
    f.guest.close_outputs();
  });
  std::array<char, 2> line;
  std::thread reader([&] {
    [[maybe_unused]] const ssize_t n = ::read(f.output.get(), line.data(), line.size());
    f.output.reset();
  });
  const SessionEnd end = f.run();
  guest.join();
  reader.join();
  CHECK(refused);
  CHECK(end.exit_status == 141);
}

TEST_CASE("a reader that goes away is noticed before anything is written to it") {
  SessionFixture f;
  std::array<int, 2> pipe{};
  REQUIRE(::pipe2(pipe.data(), O_CLOEXEC | O_NONBLOCK) == 0);
  f.streams.output = ByteEnd::own(base::UniqueFd(pipe[1]));
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    ::close(pipe[0]);
    // The session's closing it is the end of file here.
    char byte = 0;
    [[maybe_unused]] const ssize_t n = ::read(f.guest.fd(Stream::kStdout), &byte, 1);
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
}

TEST_CASE("a command that closes its standard input early stops the reading of ours") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.close(Stream::kStdin);
    // Our end is closed in turn, which the writer sees.
    const std::string part(65536, 'x');
    while (::send(f.input.get(), part.data(), part.size(), MSG_NOSIGNAL) > 0) continue;
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
}

TEST_CASE("input is left alone until the command runs") {
  SessionFixture f;
  f.start();
  f.connect_all();
  REQUIRE(::write(f.input.get(), "typed", 5) == 5);
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.frame(agent::Frame::kFailed, agent::Failed{.exit_status = 127});
  });
  CHECK(f.run().kind == Kind::kFailed);
  guest.join();
  f.session.reset();
  std::array<char, 8> buffer;
  CHECK(::recv(f.guest.fd(Stream::kStdin), buffer.data(), buffer.size(), MSG_DONTWAIT) <= 0);
}

TEST_CASE("a command that cannot be started says why, in printable words") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    const std::string text = "nonesuch: \033[31mnot found\n";
    f.guest.send(
        Stream::kControl,
        agent::FrameHeader{.type = static_cast<std::uint32_t>(agent::Frame::kFailed),
                           .length = static_cast<std::uint32_t>(sizeof(agent::Failed) + text.size())});
    f.guest.send(Stream::kControl, agent::Failed{.exit_status = 127});
    f.guest.write(Stream::kControl, text);
  });
  const SessionEnd end = f.run();
  guest.join();
  CHECK(end.kind == Kind::kFailed);
  CHECK(end.exit_status == 127);
  CHECK(end.message == "nonesuch: ?[31mnot found");
}

TEST_CASE("signals and window sizes reach a running command, and nothing else") {
  SessionFixture f;
  f.request.tty = true;
  f.start();
  f.connect_all();
  f.session->send_signal(15);  // too early: dropped
  FakeGuest::Received signal;
  FakeGuest::Received size;
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    signal = f.guest.receive();
    size = f.guest.receive();
    f.guest.exited(0);
    f.guest.close(Stream::kStdout);  // with a terminal there is one output
  });
  std::unique_ptr<base::Timer> tick;
  tick = std::move(*base::Timer::create(*f.loop, [&] {
    if (!f.session->running()) return tick->set(std::chrono::milliseconds(1));
    // The command may not have started yet: then they wait for it.
    f.session->send_signal(2);
    f.session->resize(24, 80);
  }));
  tick->set(std::chrono::milliseconds(1));
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
  CHECK(signal.type == static_cast<std::uint32_t>(agent::Frame::kSignal));
  CHECK(signal.body == std::string("\2\0\0\0", 4));
  CHECK(size.type == static_cast<std::uint32_t>(agent::Frame::kWindowSize));
  CHECK(size.body == std::string("\x18\0\x50\0", 4));
}

TEST_CASE("a full disk below standard output is told, and the command goes on") {
  SessionFixture f;
  base::UniqueFd full(::open("/dev/full", O_WRONLY | O_CLOEXEC));
  REQUIRE(full.valid());
  auto end = ByteEnd::standard(full.get(), ByteEnd::Direction::kWrite, true);
  REQUIRE(end.has_value());
  f.streams.output = std::move(*end);
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.write(Stream::kStdout, "lost");
    f.guest.exited(0);
    f.guest.close_outputs();
  });
  CHECK(f.run().kind == Kind::kExited);
  guest.join();
  CHECK_THAT(f.local_error, Catch::Matchers::Contains("No space left"));
}

TEST_CASE("after the machine's end, what it sent before still counts") {
  SessionFixture f;
  f.start();
  f.connect_all();
  std::thread guest([&] {
    f.guest.hello();
    f.guest.receive();
    f.guest.started();
    f.guest.write(Stream::kStdout, "last words");
    f.guest.exited(3);
    f.guest.close_outputs();
    f.guest.close(Stream::kControl);
    f.loop->post([&] { f.session->guest_ended(); });
  });
  const SessionEnd end = f.run();
  guest.join();
  CHECK(end.kind == Kind::kExited);
  CHECK(end.exit_status == 3);
  CHECK(SessionFixture::read_all(f.output) == "last words");
}

TEST_CASE("a command line that is too long is refused before anything starts") {
  SessionFixture f;
  const StartRequest request{.arguments = {std::string(agent::kLongestFrame, 'x')}};
  CHECK(!Session::create(*f.loop, std::move(f.streams), request, {}));
}
