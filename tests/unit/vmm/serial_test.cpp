#include "vmm/serial.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <csignal>
#include <string>
#include <thread>

#include "base/file.h"
#include "tests/support/pipe.h"
#include "tests/support/temporary_folder.h"
#include "tests/unit/vmm/uart_registers.h"

using namespace mayfly;
using namespace mayfly::vmm;
using namespace mayfly::test;
using std::chrono::milliseconds;

namespace {

std::string read_some(int fd) {
  std::array<char, 65536> buffer{};
  const ssize_t n = ::read(fd, buffer.data(), buffer.size());
  return n > 0 ? std::string(buffer.data(), static_cast<std::size_t>(n)) : std::string();
}

// The port, with the test as both its guest and its event loop.
struct Port {
  std::unique_ptr<base::EventLoop> loop;
  std::atomic<int> irqs = 0;
  std::unique_ptr<Serial> serial;

  explicit Port(int input, int output) {
    ::signal(SIGPIPE, SIG_IGN);
    loop = std::move(*base::EventLoop::create());
    auto made = Serial::create(*loop, input, output, [this] { ++irqs; });
    REQUIRE(made);
    serial = std::move(*made);
  }
  void out(std::uint64_t reg, std::uint8_t value) {
    const std::array<std::byte, 1> bytes{std::byte{value}};
    serial->write(reg, bytes);
  }
  std::uint8_t in(std::uint64_t reg) {
    std::array<std::byte, 1> bytes{};
    serial->read(reg, bytes);
    return std::to_integer<std::uint8_t>(bytes[0]);
  }
  void say(std::string_view text) {
    for (const char c : text) out(kData, static_cast<std::uint8_t>(c));
  }
  bool ready() { return (in(kLsr)&0x20) != 0; }
  // Runs the loop until `done`; only a hang reaches the deadline.
  template <typename Done>
  void run_until(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!done()) {
      REQUIRE(std::chrono::steady_clock::now() < deadline);
      turn();
    }
  }
  void turn() {
    auto timer = std::move(*base::Timer::create(*loop, [this] { loop->stop(); }));
    timer->set(milliseconds(1));
    REQUIRE(loop->run());
  }
};

}  // namespace

TEST_CASE("what the guest writes comes out, to a pipe, a socket and a file") {
  test::TemporaryFolder folder;
  Pipe pipe;
  std::array<int, 2> pair{};
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
  const base::UniqueFd socket_read(pair[0]);
  const base::UniqueFd socket_write(pair[1]);
  const base::UniqueFd file(::open(folder.path("out").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  const std::string text(5000, 't');
  for (const int fd : {pipe.write.get(), socket_write.get(), file.get()}) {
    Port port(-1, fd);
    port.say(text);
    port.serial->flush(milliseconds(60000));
    CHECK(port.serial->lost_output() == 0);
  }
  CHECK(read_some(pipe.read.get()) == text);
  CHECK(read_some(socket_read.get()) == text);
  CHECK(*base::read_file(folder.path("out")) == text);
}

TEST_CASE("the caller's fd is not made non-blocking") {
  Pipe pipe;
  Port port(pipe.read.get(), pipe.write.get());
  CHECK((::fcntl(pipe.read.get(), F_GETFL) & O_NONBLOCK) == 0);
  CHECK((::fcntl(pipe.write.get(), F_GETFL) & O_NONBLOCK) == 0);
}

TEST_CASE("a busy reader holds the guest's driver back and loses nothing") {
  Pipe pipe;
  Port port(-1, pipe.write.get());
  std::string sent;
  // A driver that waits for THRE; the loop runs now and then.
  while (sent.size() < 400'000) {
    for (int i = 0; i < 1000 && port.ready(); ++i) {
      const char c = static_cast<char>('a' + sent.size() % 26);
      port.out(kData, static_cast<std::uint8_t>(c));
      sent += c;
    }
    port.turn();
    if (!port.ready()) break;
  }
  // Pipe and buffer are full.
  CHECK_FALSE(port.ready());
  std::string received = read_some(pipe.read.get());
  port.run_until([&] { return port.ready(); });
  port.run_until([&] {
    if (received.size() < sent.size()) received += read_some(pipe.read.get());
    return received.size() >= sent.size();
  });
  CHECK(received == sent);
  CHECK(port.serial->lost_output() == 0);
}

TEST_CASE("a reader that never reads is given up, and the last words are kept") {
  Pipe pipe;
  Port port(-1, pipe.write.get());
  port.out(kIer, 0x02);
  for (int i = 0; i < 200'000; ++i) port.out(kData, '.');
  port.run_until([&] { return port.ready(); });  // after its patience
  port.say("last words");
  CHECK(port.ready());
  CHECK(port.serial->lost_output() > 0);
  std::string received;
  port.run_until([&] {
    received += read_some(pipe.read.get());
    return received.ends_with("last words");
  });
}

TEST_CASE("a closed output swallows and counts") {
  Pipe pipe;
  Port port(-1, pipe.write.get());
  pipe.read.reset();
  port.say("into the void");
  port.run_until([&] { return port.serial->lost_output() == 13; });
  port.say("more");
  CHECK(port.ready());
  CHECK(port.serial->lost_output() == 17);
  Port nowhere(-1, -1);
  nowhere.say("nobody");
  CHECK(nowhere.ready());
  CHECK(nowhere.serial->lost_output() == 6);
}

TEST_CASE("input waits for the driver, then comes with an interrupt and flow control") {
  Pipe pipe;
  Port port(pipe.read.get(), -1);
  std::string text;
  for (int i = 0; i < 5000; ++i) text += static_cast<char>('a' + i % 26);
  REQUIRE(base::write_all(pipe.write.get(), text));
  port.turn();
  CHECK((port.in(kLsr)&0x01) == 0);
  CHECK(port.irqs == 0);
  port.out(kIir, 0x01);
  port.out(kIer, 0x01);
  port.out(kMcr, 0x02);
  std::string received;
  port.run_until([&] {
    while ((port.in(kLsr)&0x01) != 0) received += static_cast<char>(port.in(kData));
    return received.size() >= text.size();
  });
  CHECK(received == text);
  CHECK(port.irqs > 0);
}

TEST_CASE("input from a file, and its end") {
  test::TemporaryFolder folder;
  const std::string path = folder.file("in", "forty characters, more than a FIFO holds");
  const auto file = base::open_file(path, O_RDONLY);
  REQUIRE(file);
  Port port(file->get(), -1);
  port.out(kIir, 0x01);
  port.out(kIer, 0x01);
  port.out(kMcr, 0x02);
  std::string received;
  port.run_until([&] {
    while ((port.in(kLsr)&0x01) != 0) received += static_cast<char>(port.in(kData));
    return received.size() >= 40;
  });
  CHECK(received == "forty characters, more than a FIFO holds");
}

TEST_CASE("the end of input is quiet") {
  Pipe pipe;
  Port port(pipe.read.get(), -1);
  port.out(kIer, 0x01);
  port.out(kMcr, 0x02);
  pipe.write.reset();
  for (int i = 0; i < 5; ++i) port.turn();
  CHECK((port.in(kLsr)&0x01) == 0);
}

TEST_CASE("a held port neither reads nor writes until it is released") {
  Pipe pipe;
  Pipe output;
  Port port(pipe.read.get(), output.write.get());
  REQUIRE(::fcntl(output.read.get(), F_SETFL, O_NONBLOCK) == 0);
  port.out(kIir, 0x01);
  port.out(kIer, 0x01);
  port.out(kMcr, 0x02);
  port.turn();
  port.loop->hold(&port.serial->mutex());
  REQUIRE(base::write_all(pipe.write.get(), "x"));
  port.say("y");
  for (int i = 0; i < 5; ++i) port.turn();
  CHECK((port.in(kLsr)&0x01) == 0);
  CHECK(read_some(output.read.get()).empty());
  port.loop->release(&port.serial->mutex());
  port.run_until([&] { return (port.in(kLsr)&0x01) != 0; });
  CHECK(port.in(kData) == 'x');
  std::string received;
  port.run_until([&] { return (received += read_some(output.read.get())) == "y"; });
}

TEST_CASE("a vCPU's thread and the loop's thread work on the port at once") {
  Pipe pipe;
  Port port(-1, pipe.write.get());
  REQUIRE(::fcntl(pipe.read.get(), F_SETFL, O_NONBLOCK) == 0);
  constexpr std::size_t kBytes = 300'000;
  std::jthread guest([&] {
    for (std::size_t i = 0; i < kBytes; ++i) {
      while (!port.ready()) std::this_thread::yield();
      port.out(kData, static_cast<std::uint8_t>(i % 251));
    }
  });
  std::string received;
  port.run_until([&] {
    received += read_some(pipe.read.get());
    return received.size() + port.serial->lost_output() >= kBytes;
  });
  // Unless this thread was kept from reading for so long that the port gave it up.
  if (port.serial->lost_output() > 0) return;
  bool in_order = received.size() == kBytes;
  for (std::size_t i = 0; i < received.size() && in_order; ++i) {
    in_order = static_cast<std::uint8_t>(received[i]) == i % 251;
  }
  CHECK(in_order);
}
