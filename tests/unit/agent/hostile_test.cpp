// A host that does not keep to the protocol: its session ends, init does not.
#include <catch2/catch.hpp>
#include <cstring>

#include "rootfs/init/agent.h"
#include "tests/unit/agent/guest.h"

namespace mayfly::test {
namespace {

using base::agent::Frame;
using base::agent::Stream;

template <base::Wire T>
std::string raw(const T& value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string start_body(std::uint32_t flags, std::uint32_t arguments, std::uint32_t variables,
                       std::string_view text) {
  base::agent::Start head;
  head.flags = flags;
  head.argument_count = arguments;
  head.environment_count = variables;
  return raw(head) + std::string(text);
}

void check_alive(const Guest& guest) {
  HostSession session = guest.open_session(4711);
  session.start(Request::shell("echo alive"));
  CHECK(read_to_end(session.output) == "alive\n");
}

TEST_CASE("a request that is not well-formed ends its session") {
  using namespace std::string_view_literals;
  const std::pair<const char*, std::string> cases[] = {
      {"empty", ""},
      {"head short", std::string(sizeof(base::agent::Start) - 1, '\0')},
      {"no arguments", start_body(0, 0, 0, "/\0"sv)},
      {"unknown flag", start_body(2, 1, 0, "/\0true\0"sv)},
      {"no strings", start_body(0, 1, 0, "")},
      {"folder not terminated", start_body(0, 1, 0, "/")},
      {"argument not terminated", start_body(0, 1, 0, "/\0true"sv)},
      {"fewer arguments than said", start_body(0, 2, 0, "/\0true\0"sv)},
      {"fewer variables than said", start_body(0, 1, 1, "/\0true\0"sv)},
      {"more strings than said", start_body(0, 1, 0, "/\0true\0false\0"sv)},
      {"bytes after the last", start_body(0, 1, 0, "/\0true\0x"sv)},
      {"as many arguments as can be said", start_body(0, UINT32_MAX, 0, "/\0true\0"sv)},
      {"as many of both as can be said", start_body(0, UINT32_MAX, UINT32_MAX, "/\0true\0"sv)},
  };
  for (const auto& [title, body] : cases) {
    DYNAMIC_SECTION(title) {
      Guest guest;
      HostSession session = guest.open_session(1);
      session.send(Frame::kStart, body);
      CHECK(!session.receive().has_value());
      check_alive(guest);
    }
  }
}

TEST_CASE("a frame longer than any may be ends its session") {
  Guest guest;
  HostSession session = guest.open_session(1);
  base::agent::FrameHeader header;
  header.type = static_cast<std::uint32_t>(Frame::kStart);
  for (const std::uint32_t length : {base::agent::kLongestFrame + 1, UINT32_MAX}) {
    header.length = length;
    write_fully(session.control, raw(header));
    CHECK(!session.receive().has_value());
    session = guest.open_session(2);
  }
  check_alive(guest);
}

TEST_CASE("the longest request is served") {
  Guest guest;
  Request request({"/bin/echo"});
  const std::size_t room = base::agent::kLongestFrame - request.encode().size();
  // One argument may not be that long: many short ones.
  for (std::size_t used = 0; used + 1024 <= room; used += 1024) request.arguments.emplace_back(1023, 'x');
  guest.boot.start(request);
  CHECK(read_to_end(guest.boot.output).size() == (request.arguments.size() - 1) * 1024);
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("an argument longer than the kernel takes is an error of the command") {
  Guest guest;
  guest.boot.start(Request({"/bin/echo", std::string(600'000, 'x')}));
  CHECK(guest.boot.expect_failure().exit_status == 126);
}

TEST_CASE("a frame may come byte by byte") {
  Guest guest;
  const std::string body = Request({"true"}).encode();
  base::agent::FrameHeader header;
  header.type = static_cast<std::uint32_t>(Frame::kStart);
  header.length = static_cast<std::uint32_t>(body.size());
  for (const char byte : raw(header) + body) write_fully(guest.boot.control, std::string_view(&byte, 1));
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("frames of no known type are skipped") {
  Guest guest;
  for (const std::uint32_t type : {0U, 1U, 4U, 15U, 20U, 0xffffffffU}) {
    guest.boot.send(static_cast<Frame>(type), std::string(1000, 'z'));
  }
  guest.boot.send(static_cast<Frame>(99), std::string(base::agent::kLongestFrame, 'z'));
  guest.boot.start(Request({"true"}));
  CHECK(guest.boot.expect_exit().exit_status == 0);
}

TEST_CASE("signals and window sizes that make no sense are ignored") {
  Guest guest;
  guest.boot.send_signal(9);
  guest.boot.send_window_size(1, 1);
  guest.boot.start(Request({"cat"}));
  (void)guest.boot.expect(Frame::kStarted);
  for (const int number : {0, -1, 65, 1 << 30}) guest.boot.send_signal(number);
  guest.boot.send(Frame::kSignal, "");
  guest.boot.send(Frame::kSignal, "123456789");
  guest.boot.send(Frame::kWindowSize, "1");
  guest.boot.send_window_size(0, 65535);
  guest.boot.end_input();
  CHECK(guest.boot.expect_exit().exit_status == 0);
  guest.boot.send_signal(9);
  check_alive(guest);
}

TEST_CASE("a second request ends the session") {
  Guest guest;
  HostSession session = guest.open_session(1);
  session.start(Request::shell("sleep 600"));
  (void)session.expect(Frame::kStarted);
  session.start(Request({"true"}));
  while (session.receive().has_value()) {
  }
  CHECK(read_to_end(session.output).empty());
  check_alive(guest);
}

TEST_CASE("a wrong preamble is not answered") {
  Guest guest;
  base::agent::Preamble preamble;
  preamble.magic = base::agent::kMagic;
  preamble.version = base::agent::kVersion;
  SECTION("magic") {
    preamble.magic = 0x12345678;
  }
  SECTION("version") {
    preamble.version = 2;
  }
  SECTION("stream") {
    preamble.stream = 4;
  }
  SECTION("stream, as large as can be") {
    preamble.stream = 0xffff;
  }
  const base::UniqueFd fd = guest.connect();
  write_fully(fd, raw(preamble));
  CHECK(ends_without_a_byte(fd));
  check_alive(guest);
}

TEST_CASE("the boot session's number does not open it to others") {
  Guest guest;
  HostSession session = guest.open_session(0);
  session.start(Request::shell("echo another"));
  CHECK(read_to_end(session.output) == "another\n");
  guest.boot.start(Request::shell("echo first"));
  CHECK(read_to_end(guest.boot.output) == "first\n");
}

TEST_CASE("connections that come and go leave nothing behind") {
  Guest guest;
  for (std::uint32_t i = 0; i < 500; ++i) {
    guest.connect().reset();
    write_fully(guest.connect(), "xx");
    HostSession session = guest.open_session(i);
    if (i % 2 == 0) session.start(Request::shell("yes"));
  }
  check_alive(guest);
}

}  // namespace
}  // namespace mayfly::test
