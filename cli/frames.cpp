#include "cli/frames.h"

#include <algorithm>
#include <cstring>

namespace mayfly::cli {

namespace agent = base::agent;
using agent::Frame;
using base::fail;
using base::Result;

namespace {

template <base::Wire T>
void append(std::string& out, const T& value) {
  const std::size_t at = out.size();
  out.resize(at + sizeof(T));
  std::memcpy(out.data() + at, &value, sizeof(T));
}

template <base::Wire T>
T decode(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

std::string frame(Frame type, std::string_view body) {
  std::string out;
  out.reserve(sizeof(agent::FrameHeader) + body.size());
  append(out, agent::FrameHeader{.type = static_cast<std::uint32_t>(type),
                                 .length = static_cast<std::uint32_t>(body.size())});
  return out.append(body);
}

struct Lengths {
  std::size_t least;
  std::size_t most;
};

Result<Lengths> lengths_of(std::uint32_t type) {
  switch (static_cast<Frame>(type)) {
    case Frame::kHello:
      return Lengths{sizeof(agent::Hello), sizeof(agent::Hello)};
    case Frame::kStarted:
      return Lengths{sizeof(agent::Started), sizeof(agent::Started)};
    case Frame::kFailed:
      return Lengths{sizeof(agent::Failed), sizeof(agent::Failed) + FrameReader::kLongestMessage};
    case Frame::kExited:
      return Lengths{sizeof(agent::Exited), sizeof(agent::Exited)};
    default:
      return fail("a frame of unknown type {}", type);
  }
}

Result<GuestFrame> parse(Frame type, std::string_view body) {
  switch (type) {
    case Frame::kHello: {
      const auto hello = decode<agent::Hello>(body);
      return HelloFrame{hello.init_started_ns, hello.now_ns};
    }
    case Frame::kStarted:
      return StartedFrame{decode<agent::Started>(body).now_ns};
    case Frame::kFailed: {
      const std::uint32_t status = decode<agent::Failed>(body).exit_status;
      if (status < 125 || status > 127) return fail("a failure with exit status {}", status);
      const std::string_view message = body.substr(sizeof(agent::Failed));
      return FailedFrame{static_cast<int>(status), printable(message, FrameReader::kLongestMessage)};
    }
    default: {
      const auto exited = decode<agent::Exited>(body);
      const std::uint32_t status = exited.exit_status;
      if (status > 255) return fail("a command's end with exit status {}", status);
      return ExitedFrame{exited.now_ns, static_cast<int>(status)};
    }
  }
}

}  // namespace

Result<std::string> encode_start(const StartRequest& request) {
  std::string body;
  append(body, agent::Start{
                   .flags = request.tty ? agent::kStartTty : 0,
                   .uid = request.uid,
                   .gid = request.gid,
                   .rows = request.rows,
                   .columns = request.columns,
                   .argument_count = static_cast<std::uint32_t>(request.arguments.size()),
                   .environment_count = static_cast<std::uint32_t>(request.environment.size()),
               });
  body.append(request.directory).push_back('\0');
  for (const std::string& word : request.arguments) body.append(word).push_back('\0');
  for (const std::string& variable : request.environment) body.append(variable).push_back('\0');
  if (body.size() > agent::kLongestFrame) {
    return fail("the command and its environment are {} bytes long, and {} is the most that a guest takes",
                body.size(), agent::kLongestFrame);
  }
  return frame(Frame::kStart, body);
}

std::string encode_signal(int number) {
  std::string body;
  append(body, agent::Signal{.number = static_cast<std::uint32_t>(number)});
  return frame(Frame::kSignal, body);
}

std::string encode_window_size(std::uint16_t rows, std::uint16_t columns) {
  std::string body;
  append(body, agent::WindowSize{.rows = rows, .columns = columns});
  return frame(Frame::kWindowSize, body);
}

std::string encode_shutdown() {
  return frame(Frame::kShutdown, "");
}

Result<std::optional<GuestFrame>> FrameReader::take(std::span<const std::byte>& bytes) {
  const auto hold = [&](std::size_t wanted) {
    const std::size_t count = std::min(bytes.size(), wanted - std::min(wanted, held_.size()));
    for (const std::byte b : bytes.first(count)) held_.push_back(static_cast<char>(b));
    bytes = bytes.subspan(count);
    return held_.size() >= wanted;
  };
  if (!hold(sizeof(agent::FrameHeader))) return std::nullopt;
  const auto header = decode<agent::FrameHeader>(held_);
  const std::uint32_t length = header.length;
  const Lengths lengths = TRY(lengths_of(header.type));
  if (length < lengths.least || length > lengths.most) {
    return fail("a frame of type {} with a body of {} bytes", static_cast<std::uint32_t>(header.type),
                length);
  }
  if (!hold(sizeof(header) + length)) return std::nullopt;
  const std::string whole = std::exchange(held_, {});
  const std::uint32_t type = header.type;
  return TRY(parse(static_cast<Frame>(type), std::string_view(whole).substr(sizeof(header))));
}

Result<StreamName> parse_preamble(std::span<const std::byte> bytes) {
  agent::Preamble preamble;
  if (bytes.size() != sizeof(preamble)) return fail("a preamble of {} bytes", bytes.size());
  std::memcpy(&preamble, bytes.data(), sizeof(preamble));
  if (preamble.magic != agent::kMagic) {
    return fail("a stream that does not start with a preamble");
  }
  const std::uint16_t version = preamble.version;
  if (version != agent::kVersion) {
    return fail("version {} of the agent protocol where version {} is spoken", version, agent::kVersion);
  }
  const std::uint16_t stream = preamble.stream;
  if (stream > static_cast<std::uint16_t>(agent::Stream::kStderr)) {
    return fail("a stream of unknown kind {}", stream);
  }
  return StreamName{static_cast<agent::Stream>(stream), preamble.session};
}

std::string printable(std::string_view text, std::size_t limit) {
  std::string out(text.substr(0, limit));
  while (!out.empty() && (out.back() == '\n' || out.back() == '\0')) out.pop_back();
  std::ranges::replace_if(
      out, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return out;
}

}  // namespace mayfly::cli
