// Sessions: many at once, their bounds, and how they and the machine end.
#include <errno.h>
#include <signal.h>

#include <catch2/catch.hpp>

#include "rootfs/init/agent.h"
#include "tests/unit/agent/guest.h"

namespace mayfly::test {
namespace {

using base::agent::Frame;
using base::agent::Stream;

TEST_CASE("the machine ends when the host asks") {
  Guest guest;
  guest.boot.send(Frame::kShutdown, "");
  CHECK(guest.wait() == Guest::Ending::kAsked);
}

TEST_CASE("any session may ask the machine to end") {
  Guest guest;
  const HostSession session = guest.open_session(5);
  session.send(Frame::kShutdown, "");
  CHECK(guest.wait() == Guest::Ending::kAsked);
}

TEST_CASE("the machine ends with the boot session's control stream") {
  Guest guest;
  SECTION("before a command") {}
  SECTION("while a command runs") {
    guest.boot.start(Request::shell("echo ready; sleep 600"));
    read_until(guest.boot.output, "ready\n");
  }
  SECTION("after a command") {
    guest.boot.start(Request({"true"}));
    CHECK(guest.boot.expect_exit().exit_status == 0);
  }
  guest.boot.control.reset();
  CHECK(guest.wait() == Guest::Ending::kHostGone);
}

TEST_CASE("a command dies with its session") {
  Guest guest;
  HostSession session = guest.open_session(1);
  session.start(Request::shell("echo $$; exec sleep 600"));
  const std::string pid = read_until(session.output, "\n");
  session.control.reset();
  CHECK(read_to_end(session.output).empty());
  // Its process is gone, which another session sees.
  HostSession other = guest.open_session(2);
  other.start(Request::shell("while kill -0 " + pid.substr(0, pid.size() - 1) +
                             " 2>/dev/null; do sleep 0.05; done; echo gone"));
  CHECK(read_to_end(other.output) == "gone\n");
}

TEST_CASE("sixty sessions at once each have their own") {
  Guest guest;
  std::vector<HostSession> sessions;
  for (std::uint32_t id = 1; id <= 60; ++id) sessions.push_back(guest.open_session(id));
  for (const HostSession& session : sessions) session.start(Request::shell("cat; echo e$$ >&2; exit 3"));
  for (std::size_t i = 0; i < sessions.size(); ++i)
    write_fully(sessions[i].input, "session " + std::to_string(i));
  for (std::size_t i = sessions.size(); i-- > 0;) {
    sessions[i].end_input();
    CHECK(read_to_end(sessions[i].output) == "session " + std::to_string(i));
    CHECK(read_to_end(sessions[i].errors).starts_with("e"));
    CHECK(sessions[i].expect_exit().exit_status == 3);
  }
}

TEST_CASE("a session's number can be used again after it") {
  Guest guest;
  for (int i = 0; i < 200; ++i) {
    HostSession session = guest.open_session(7);
    session.start(Request::shell("exit " + std::to_string(i)));
    REQUIRE(session.expect_exit().exit_status == static_cast<std::uint32_t>(i));
    session.control.reset();
    // The guest closes the other streams when it has seen that.
    REQUIRE(ends_without_a_byte(session.output));
    REQUIRE(ends_without_a_byte(session.input));
  }
}

TEST_CASE("a session more than there may be is refused, the others live on") {
  Guest guest;
  std::vector<HostSession> sessions;
  // The boot session is one of them.
  for (std::uint32_t id = 1; id < init::kMostSessions; ++id) {
    sessions.push_back(guest.open_session(id));
    sessions.back().start(Request({"cat"}));
    (void)sessions.back().expect(Frame::kStarted);
  }
  CHECK(ends_without_a_byte(guest.open_stream(Stream::kControl, 1000)));
  sessions.front().end_input();
  CHECK(sessions.front().expect_exit().exit_status == 0);
  sessions.front().control.reset();
  REQUIRE(ends_without_a_byte(sessions.front().output));
  HostSession next = guest.open_session(1001);
  next.start(Request({"true"}));
  CHECK(next.expect_exit().exit_status == 0);
}

TEST_CASE("a stream that a session has already is refused") {
  Guest guest;
  HostSession session = guest.open_session(1);
  session.start(Request({"cat"}));
  (void)session.expect(Frame::kStarted);
  for (const Stream each : {Stream::kControl, Stream::kStdin, Stream::kStdout, Stream::kStderr}) {
    CHECK(ends_without_a_byte(guest.open_stream(each, 1)));
  }
  session.end_input();
  CHECK(session.expect_exit().exit_status == 0);
}

TEST_CASE("streams may come in any order, and after the request") {
  Guest guest;
  HostSession session;
  session.control = guest.open_stream(Stream::kControl, 3);
  session.start(Request::shell("echo out; echo err >&2"));
  session.errors = guest.open_stream(Stream::kStderr, 3);
  session.output = guest.open_stream(Stream::kStdout, 3);
  session.input = guest.open_stream(Stream::kStdin, 3);
  CHECK(read_to_end(session.output) == "out\n");
  CHECK(read_to_end(session.errors) == "err\n");
}

TEST_CASE("what the host does not complete in time is closed") {
  Guest guest({.patience_ns = 20'000'000});
  const base::UniqueFd silent = guest.connect();
  const base::UniqueFd partial = guest.connect();
  write_fully(partial, "MFL");
  const base::UniqueFd lonely = guest.open_stream(Stream::kStdout, 9);
  HostSession undecided = guest.open_session(10);
  CHECK(ends_without_a_byte(silent));
  CHECK(ends_without_a_byte(partial));
  CHECK(ends_without_a_byte(lonely));
  CHECK(!undecided.receive().has_value());
  // The boot session is not in a hurry.
  guest.boot.start(Request({"true"}));
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("connections beyond those that may be unclear wait their turn") {
  Guest guest;
  std::vector<base::UniqueFd> silent;
  for (std::size_t i = 0; i < init::kMostPending; ++i) silent.push_back(guest.connect());
  HostSession session = guest.open_session(1);
  session.start(Request({"true"}));
  silent.clear();
  CHECK(session.expect_exit().exit_status == 0);
}

}  // namespace
}  // namespace mayfly::test
