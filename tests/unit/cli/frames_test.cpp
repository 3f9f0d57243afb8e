#include "cli/frames.h"

#include <catch2/catch.hpp>
#include <cstring>

#include "cli/timing.h"

using namespace mayfly::cli;
namespace agent = mayfly::base::agent;

namespace {

template <typename T>
std::string bytes_of(const T& value) {
  std::string out(sizeof(value), '\0');
  std::memcpy(out.data(), &value, sizeof(value));
  return out;
}

template <typename T>
std::string frame(agent::Frame type, const T& body) {
  return bytes_of(agent::FrameHeader{.type = static_cast<std::uint32_t>(type), .length = sizeof(body)}) +
         bytes_of(body);
}

}  // namespace

TEST_CASE("frames are put together from pieces of any size") {
  const std::string stream =
      frame(agent::Frame::kHello, agent::Hello{.init_started_ns = 10, .now_ns = 20}) +
      frame(agent::Frame::kStarted, agent::Started{.now_ns = 30, .pid = 1, .reserved = 0}) +
      frame(agent::Frame::kExited, agent::Exited{.now_ns = 40, .exit_status = 9, .signal = 0});
  for (std::size_t piece = 1; piece <= stream.size(); ++piece) {
    FrameReader reader;
    std::vector<GuestFrame> frames;
    for (std::size_t at = 0; at < stream.size(); at += piece) {
      auto rest = std::as_bytes(std::span(stream).subspan(at, std::min(piece, stream.size() - at)));
      while (!rest.empty()) {
        const auto taken = reader.take(rest);
        REQUIRE(taken.has_value());
        if (*taken) frames.push_back(**taken);
      }
    }
    REQUIRE(frames.size() == 3);
    CHECK(std::get<HelloFrame>(frames[0]).init_started_ns == 10);
    CHECK(std::get<StartedFrame>(frames[1]).now_ns == 30);
    CHECK(std::get<ExitedFrame>(frames[2]).exit_status == 9);
  }
}

TEST_CASE("a failure's message is limited") {
  const auto header = [](std::size_t message) {
    return bytes_of(
        agent::FrameHeader{.type = static_cast<std::uint32_t>(agent::Frame::kFailed),
                           .length = static_cast<std::uint32_t>(sizeof(agent::Failed) + message)});
  };
  const auto take = [](const std::string& text) {
    FrameReader reader;
    auto bytes = std::as_bytes(std::span(text));
    return reader.take(bytes).has_value();
  };
  CHECK(take(header(FrameReader::kLongestMessage)));
  CHECK(!take(header(FrameReader::kLongestMessage + 1)));
}

TEST_CASE("what mayfly sends has the protocol's form") {
  CHECK(encode_signal(15) == std::string("\x11\0\0\0\4\0\0\0\x0f\0\0\0", 12));
  CHECK(encode_window_size(24, 80) == std::string("\x12\0\0\0\4\0\0\0\x18\0\x50\0", 12));
  CHECK(encode_shutdown() == std::string("\x13\0\0\0\0\0\0\0", 8));
  const auto start = encode_start({.tty = true, .uid = 1, .rows = 2, .columns = 3, .arguments = {"a", "b"}});
  REQUIRE(start.has_value());
  agent::Start head;
  REQUIRE(start->size() == sizeof(agent::FrameHeader) + sizeof(head) + 5);
  std::memcpy(&head, start->data() + sizeof(agent::FrameHeader), sizeof(head));
  CHECK(head.flags == agent::kStartTty);
  CHECK(head.uid == 1);
  CHECK(head.gid == agent::kGroupOfUser);
  CHECK(head.argument_count == 2);
  CHECK(head.environment_count == 0);
  CHECK(start->substr(start->size() - 5) == std::string("\0a\0b\0", 5));
}

TEST_CASE("phases are placed on the host's clock, in order") {
  Timing timing(1'000'000);
  timing.add_guest_frame(HelloFrame{500, 1'000'500}, 9'000'000);  // the offset is 7 999 500
  timing.add_guest_frame(StartedFrame{2'000'500}, 11'000'000);    // sent at 10 000 000
  timing.add_vmm_phase("kvm", 2'000'000);
  timing.add_vmm_phase("something else", 2'500'000);
  timing.add_vmm_phase("first_vcpu_entry", 3'000'000);
  timing.add_guest_frame(ExitedFrame{4'000'500, 0}, 13'000'000);
  const auto phases = timing.phases();
  REQUIRE(phases.size() == 7);
  const std::vector<std::pair<std::string, double>> expected = {
      {"process start", 0},   {"KVM", 1},   {"first vCPU entry", 2}, {"kernel", 7}, {"init", 8},
      {"command started", 9}, {"ended", 11}};
  for (std::size_t i = 0; i < phases.size(); ++i) {
    CHECK(phases[i].name == expected[i].first);
    CHECK(phases[i].at_ms == Approx(expected[i].second));
  }
}

TEST_CASE("a guest's lies about its clock stay within the run") {
  Timing timing(1'000);
  timing.add_vmm_phase("kvm", 2'000);
  timing.add_guest_frame(HelloFrame{UINT64_MAX, 0}, 5'000);
  timing.add_guest_frame(StartedFrame{UINT64_MAX / 2}, 6'000);
  timing.add_guest_frame(ExitedFrame{0, 0}, 7'000);
  double before = 0;
  for (const auto& phase : timing.phases()) {
    CHECK(phase.at_ms >= before);
    CHECK(phase.at_ms <= 0.006);
    CHECK(phase.delta_ms >= 0);
    before = phase.at_ms;
  }
}
