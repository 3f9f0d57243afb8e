#include "tests/unit/agent/guest.h"

#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstring>

#include "rootfs/init/agent.h"

namespace mayfly::test {
namespace {

using base::UniqueFd;
using base::agent::Frame;
using base::agent::Stream;

// A wait that is this long is a hang.
constexpr int kHangMs = 120'000;

template <base::Wire T>
std::string bytes_of(const T& value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

template <base::Wire T>
T from_bytes(std::string_view bytes) {
  REQUIRE(bytes.size() >= sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// Up to `wanted` bytes; fewer at end of file, which a reset also is.
std::string read_some(int fd, std::size_t wanted) {
  std::string bytes(wanted, '\0');
  pollfd ready{.fd = fd, .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, kHangMs) != 1) FAIL("the guest sent nothing for two minutes");
  const ssize_t count = ::read(fd, bytes.data(), bytes.size());
  bytes.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
  return bytes;
}

std::string read_exactly(int fd, std::size_t wanted) {
  std::string bytes;
  while (bytes.size() < wanted) {
    const std::string more = read_some(fd, wanted - bytes.size());
    if (more.empty()) break;
    bytes += more;
  }
  return bytes;
}

sockaddr_un unix_address(const std::string& name, socklen_t& size) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // A leading NUL: the abstract namespace, which leaves no file.
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

UniqueFd listen_at(const std::string& name) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  socklen_t size = 0;
  const sockaddr_un address = unix_address(name, size);
  REQUIRE(::bind(fd.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), size) == 0);
  REQUIRE(::listen(fd.get(), 512) == 0);
  return fd;
}

[[noreturn]] void run_agent(UniqueFd listener, std::array<UniqueFd, init::kStreams> streams,
                            std::uint64_t patience) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  // What the tests were started with is not the commands' to inherit.
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
  int status = 9;
  {
    UniqueFd children(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
    init::Agent agent(std::move(children), std::move(listener), patience);
    if (agent.open_boot_session(std::move(streams), 42)) {
      status = agent.run() == init::Agent::Ending::kAsked ? 0 : 1;
    }
  }
  ::_exit(status);
}

}  // namespace

Request::Request(std::vector<std::string> words)
    : arguments(std::move(words)), uid(::getuid()), gid(::getgid()) {}

std::string Request::encode() const {
  base::agent::Start head;
  head.flags = tty ? base::agent::kStartTty : 0;
  head.uid = uid;
  head.gid = gid;
  head.rows = rows;
  head.columns = columns;
  head.argument_count = static_cast<std::uint32_t>(arguments.size());
  head.environment_count = static_cast<std::uint32_t>(environment.size());
  std::string body = bytes_of(head) + directory + '\0';
  for (const std::string& each : arguments) body += each + '\0';
  for (const std::string& each : environment) body += each + '\0';
  return body;
}

void HostSession::send(Frame type, std::string_view body) const {
  base::agent::FrameHeader header;
  header.type = static_cast<std::uint32_t>(type);
  header.length = static_cast<std::uint32_t>(body.size());
  write_fully(control, bytes_of(header) + std::string(body));
}

void HostSession::send_signal(int number) const {
  base::agent::Signal signal;
  signal.number = static_cast<std::uint32_t>(number);
  send(Frame::kSignal, bytes_of(signal));
}

void HostSession::send_window_size(std::uint16_t rows, std::uint16_t columns) const {
  base::agent::WindowSize size;
  size.rows = rows;
  size.columns = columns;
  send(Frame::kWindowSize, bytes_of(size));
}

void HostSession::end_input() const {
  ::shutdown(input.get(), SHUT_WR);
}

std::optional<Received> HostSession::receive() const {
  base::agent::FrameHeader header;
  const std::string head = read_exactly(control.get(), sizeof(header));
  if (head.size() < sizeof(header)) return std::nullopt;
  header = from_bytes<base::agent::FrameHeader>(head);
  return Received{static_cast<Frame>(std::uint32_t{header.type}), read_exactly(control.get(), header.length)};
}

std::string HostSession::expect(Frame type) const {
  for (;;) {
    std::optional<Received> frame = receive();
    if (!frame) FAIL("the guest closed the control stream");
    if (frame->type == type) return std::move(frame->body);
    if (frame->type == Frame::kFailed) FAIL("the command failed: " + frame->body.substr(4));
  }
}

base::agent::Exited HostSession::expect_exit() const {
  return from_bytes<base::agent::Exited>(expect(Frame::kExited));
}

HostSession::Failure HostSession::expect_failure() const {
  const std::string body = expect(Frame::kFailed);
  return {from_bytes<base::agent::Failed>(body).exit_status, body.substr(sizeof(base::agent::Failed))};
}

std::string read_to_end(const UniqueFd& fd) {
  std::string all;
  for (std::string more = read_some(fd.get(), 1U << 16U); !more.empty();
       more = read_some(fd.get(), 1U << 16U)) {
    all += more;
  }
  return all;
}

std::string read_until(const UniqueFd& fd, std::string_view text) {
  std::string all;
  while (!all.ends_with(text)) {
    const std::string more = read_some(fd.get(), 1);
    if (more.empty()) FAIL("output ended before '" << text << "': " << all);
    all += more;
  }
  return all;
}

void write_fully(const UniqueFd& fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count < 0) return;  // the tests see it in what comes back
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
}

bool ends_without_a_byte(const UniqueFd& fd) {
  return read_some(fd.get(), 1).empty();
}

Guest::Guest(Options options) {
  static int count = 0;
  address_ = "mayfly-agent-test-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
  UniqueFd listener = listen_at(address_);
  std::array<UniqueFd, init::kStreams> ours;
  std::array<UniqueFd, init::kStreams> theirs;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    ours[i].reset(ends[0]);
    theirs[i].reset(ends[1]);
    const int on = 1;
    REQUIRE(::ioctl(ends[1], FIONBIO, &on) == 0);
    const int size = options.socket_buffer;
    if (size > 0) ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  }
  pid_ = ::fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    for (UniqueFd& fd : ours) fd.reset();
    run_agent(std::move(listener), std::move(theirs), options.patience_ns);
  }
  for (UniqueFd& fd : theirs) fd.reset();
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const auto preamble =
        from_bytes<base::agent::Preamble>(read_exactly(ours[i].get(), sizeof(base::agent::Preamble)));
    REQUIRE(preamble.magic == base::agent::kMagic);
    REQUIRE(preamble.stream == i);
  }
  boot = {std::move(ours[0]), std::move(ours[1]), std::move(ours[2]), std::move(ours[3])};
  const auto hello = from_bytes<base::agent::Hello>(boot.expect(Frame::kHello));
  REQUIRE(hello.init_started_ns == 42);
  REQUIRE(hello.now_ns != 0);
}

Guest::~Guest() {
  if (pid_ <= 0) return;
  // The agent ends with its boot session, and kills what its sessions run.
  boot.control.reset();
  ::waitpid(pid_, nullptr, 0);
}

UniqueFd Guest::connect() const {
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  socklen_t size = 0;
  const sockaddr_un address = unix_address(address_, size);
  REQUIRE(::connect(fd.get(), static_cast<const sockaddr*>(static_cast<const void*>(&address)), size) == 0);
  return fd;
}

UniqueFd Guest::open_stream(Stream stream, std::uint32_t session) const {
  UniqueFd fd = connect();
  base::agent::Preamble preamble;
  preamble.magic = base::agent::kMagic;
  preamble.version = base::agent::kVersion;
  preamble.stream = static_cast<std::uint16_t>(stream);
  preamble.session = session;
  write_fully(fd, bytes_of(preamble));
  return fd;
}

HostSession Guest::open_session(std::uint32_t id, bool tty) const {
  HostSession session;
  session.input = open_stream(Stream::kStdin, id);
  session.control = open_stream(Stream::kControl, id);
  session.output = open_stream(Stream::kStdout, id);
  if (!tty) session.errors = open_stream(Stream::kStderr, id);
  return session;
}

Guest::Ending Guest::wait() {
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  if (!WIFEXITED(status) || WEXITSTATUS(status) > 1) return Ending::kCrashed;
  return WEXITSTATUS(status) == 0 ? Ending::kAsked : Ending::kHostGone;
}

}  // namespace mayfly::test
