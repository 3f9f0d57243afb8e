// Standard streams: every byte, in order, separate, and their ends.
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <thread>

#include "tests/support/eventually.h"
#include "tests/unit/agent/guest.h"

namespace mayfly::test {
namespace {

using base::agent::Frame;

std::string random_bytes(std::size_t count) {
  std::mt19937_64 engine(1);
  std::string bytes(count, '\0');
  for (std::size_t i = 0; i + 8 <= count; i += 8) {
    const std::uint64_t word = engine();
    std::memcpy(bytes.data() + i, &word, 8);
  }
  return bytes;
}

TEST_CASE("output and errors are separate") {
  Guest guest;
  guest.boot.start(Request::shell("echo out; echo err >&2; exit 7"));
  CHECK(read_to_end(guest.boot.output) == "out\n");
  CHECK(read_to_end(guest.boot.errors) == "err\n");
  CHECK(guest.boot.expect_exit().exit_status == 7);
}

TEST_CASE("64 MiB go in and come out unchanged") {
  const std::string sent = random_bytes(64U << 20U);
  Guest guest;
  guest.boot.start(Request({"cat"}));
  std::thread writer([&] {
    write_fully(guest.boot.input, sent);
    guest.boot.end_input();
  });
  const std::string received = read_to_end(guest.boot.output);
  writer.join();
  CHECK(received.size() == sent.size());
  CHECK((received == sent));
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("an end of input at once is passed on") {
  Guest guest;
  guest.boot.end_input();
  guest.boot.start(Request({"cat"}));
  CHECK(read_to_end(guest.boot.output).empty());
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("input sent before the start is not lost") {
  Guest guest;
  write_fully(guest.boot.input, "early\n");
  guest.boot.end_input();
  guest.boot.start(Request({"cat"}));
  CHECK(read_to_end(guest.boot.output) == "early\n");
}

TEST_CASE("a command may open its streams again") {
  Guest guest;
  guest.boot.start(Request::shell("cat /dev/stdin >/dev/stdout; echo again >/proc/self/fd/2"));
  write_fully(guest.boot.input, "text");
  guest.boot.end_input();
  CHECK(read_to_end(guest.boot.output) == "text");
  CHECK(read_to_end(guest.boot.errors) == "again\n");
}

TEST_CASE("a command that closes its output ends that stream while it runs") {
  Guest guest;
  guest.boot.start(Request::shell("echo last; exec >&-; read line; exit 3"));
  CHECK(read_to_end(guest.boot.output) == "last\n");
  write_fully(guest.boot.input, "go\n");
  CHECK(guest.boot.expect_exit().exit_status == 3);
}

TEST_CASE("a command whose reader is gone gets SIGPIPE") {
  Guest guest;
  guest.boot.start(Request({"yes"}));
  CHECK(read_until(guest.boot.output, "y\n") == "y\n");
  guest.boot.output.reset();
  CHECK(guest.boot.expect_exit().signal == SIGPIPE);
}

TEST_CASE("the host learns that nobody reads the input any more") {
  Guest guest;
  guest.boot.start(Request::shell("exec <&-; echo closed; read line <&1; :"));
  CHECK(read_until(guest.boot.output, "closed\n") == "closed\n");
  pollfd input{.fd = guest.boot.input.get(), .events = 0, .revents = 0};
  REQUIRE(::poll(&input, 1, 120'000) == 1);
  CHECK((input.revents & POLLHUP) != 0);
}

TEST_CASE("a slow host loses nothing") {
  // Two megabytes through a few kilobytes of buffer, with the command gone long before the end is read.
  Guest guest({.socket_buffer = 4096});
  guest.boot.start(Request::shell("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"));
  CHECK(guest.boot.expect_exit().exit_status == 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(read_to_end(guest.boot.errors).size() == 60000);
  CHECK(read_to_end(guest.boot.output).size() == 60000);
}

TEST_CASE("a blocked stream does not hold up the others") {
  Guest guest({.socket_buffer = 4096});
  guest.boot.start(Request::shell("yes >&2 & echo through; cat; kill $!"));
  CHECK(read_until(guest.boot.output, "through\n") == "through\n");
  write_fully(guest.boot.input, "and back\n");
  CHECK(read_until(guest.boot.output, "and back\n") == "and back\n");
  guest.boot.end_input();
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

// A child that the command left behind, by the process id that it printed: ended with the test.
class Child {
 public:
  explicit Child(const std::string& printed) : pid_(static_cast<pid_t>(std::stol(printed))) {}
  ~Child() { ::kill(pid_, SIGKILL); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

 private:
  pid_t pid_;
};

TEST_CASE("output ends with the command even if a child keeps it open") {
  SECTION("a quiet one") {
    Guest guest;
    guest.boot.start(Request::shell("sleep 1000 & echo $!"));
    const Child child(read_to_end(guest.boot.output));
    CHECK(read_to_end(guest.boot.errors).empty());
    CHECK(guest.boot.expect_exit().exit_status == 0);
  }
  SECTION("one that writes for ever") {
    Guest guest;
    guest.boot.start(Request::shell("yes & echo done >&2"));
    CHECK(read_to_end(guest.boot.errors) == "done\n");
    CHECK(guest.boot.expect_exit().exit_status == 0);
    CHECK(!read_to_end(guest.boot.output).empty());
  }
  SECTION("one that finishes soon") {
    // Soon as the clock goes, on a machine that may have others to serve.
    CHECK(eventually([] {
      Guest guest;
      guest.boot.start(Request::shell("(sleep 0.02; echo late) & echo done"));
      return read_to_end(guest.boot.output) == "done\nlate\n";
    }));
  }
  SECTION("and a host that reads late") {
    Guest guest({.socket_buffer = 4096});
    guest.boot.start(Request::shell("sleep 1000 2>/dev/null & echo $! >&2; head -c 65536 /dev/zero"));
    CHECK(guest.boot.expect_exit().exit_status == 0);
    const Child child(read_to_end(guest.boot.errors));
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    CHECK(read_to_end(guest.boot.output).size() == 65536);
  }
}

}  // namespace
}  // namespace mayfly::test
