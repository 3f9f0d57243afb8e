// Commands with a terminal.
#include <signal.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "tests/unit/agent/guest.h"

namespace mayfly::test {
namespace {

Request terminal(std::string_view script) {
  Request request = Request::shell(script);
  request.tty = true;
  request.rows = 33;
  request.columns = 101;
  return request;
}

TEST_CASE("a terminal is the controlling one, on all three streams, with the size asked for") {
  Guest guest;
  guest.boot.start(
      terminal("[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stty size </dev/tty; echo err >&2; echo $TERM"));
  CHECK(read_to_end(guest.boot.output) == "33 101\r\nerr\r\nxterm\r\n");
  CHECK(read_to_end(guest.boot.errors).empty());
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("a resized terminal tells its command") {
  Guest guest;
  guest.boot.start(terminal("trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done"));
  read_until(guest.boot.output, "ready\r\n");
  guest.boot.send_window_size(50, 200);
  CHECK(read_until(guest.boot.output, "50 200\r\n") == "50 200\r\n");
  CHECK(guest.boot.expect_exit().exit_status == 4);
}

TEST_CASE("keys are echoed, and Ctrl-C interrupts") {
  Guest guest;
  guest.boot.start(terminal("trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.05; done"));
  read_until(guest.boot.output, "ready\r\n");
  write_fully(guest.boot.input, "\x03");
  CHECK(guest.boot.expect_exit().exit_status == 5);
  CHECK(read_to_end(guest.boot.output) == "^Cinterrupted\r\n");
}

TEST_CASE("an end of input is typed into the terminal") {
  Guest guest;
  guest.boot.start(terminal("stty -echo; echo ready; cat"));
  read_until(guest.boot.output, "ready\r\n");
  write_fully(guest.boot.input, "line\n");
  guest.boot.end_input();
  CHECK(read_to_end(guest.boot.output) == "line\r\n");
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("all of a terminal's output arrives") {
  Guest guest({.socket_buffer = 4096});
  guest.boot.start(terminal("stty raw; seq 1 50000"));
  std::string expected;
  for (int i = 1; i <= 50000; ++i) expected += std::to_string(i) + "\n";
  CHECK((read_to_end(guest.boot.output) == expected));
}

TEST_CASE("a session of the host's with a terminal has no errors stream") {
  Guest guest;
  HostSession session = guest.open_session(1, true);
  session.start(terminal("echo here; exit 6"));
  CHECK(read_to_end(session.output) == "here\r\n");
  CHECK(session.expect_exit().exit_status == 6);
}

TEST_CASE("a host that goes away hangs the terminal up") {
  Guest guest;
  HostSession session = guest.open_session(1, true);
  session.start(terminal("echo ready; sleep 600"));
  read_until(session.output, "ready\r\n");
  session.control.reset();
  CHECK(read_to_end(session.output).empty());
}

}  // namespace
}  // namespace mayfly::test
