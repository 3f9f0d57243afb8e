// A stand-in for mayfly-vmm with a guest in it: takes the same command line and configuration, speaks the
// agent's side of base/agent_protocol.h, and runs the commands as ordinary processes of the host. Commands
// whose first word starts with "@" make it misbehave instead.
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/agent_protocol.h"
#include "base/file.h"
#include "base/timeline.h"
#include "virtio/net/backend.h"

namespace {

using namespace mayfly::base;
using namespace mayfly::base::agent;

std::string vsock_path;
std::array<int, 4> streams;

[[noreturn]] void die(const char* what) {
  std::fprintf(stderr, "fake-vmm: %s: %s\n", what, std::strerror(errno));
  ::_exit(1);
}

int connect_to_host() {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = fmt::format("{}_{}", vsock_path, kHostPort);
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::connect(fd, generic, sizeof(address)) < 0) return -1;
  return fd;
}

template <Wire T>
void put(int fd, const T& value) {
  if (::send(fd, &value, sizeof(value), MSG_NOSIGNAL) != sizeof(value)) die("send");
}

template <Wire T>
void put_frame(Frame type, const T& body) {
  put(streams[0], FrameHeader{.type = static_cast<std::uint32_t>(type), .length = sizeof(body)});
  put(streams[0], body);
}

bool get(void* out, std::size_t size) {
  // A receive of nothing would wait for something.
  return size == 0 || ::recv(streams[0], out, size, MSG_WAITALL) == static_cast<ssize_t>(size);
}

void open_stream(int number, std::uint32_t magic = kMagic) {
  const int fd = connect_to_host();
  if (fd < 0) die("connect");
  streams[static_cast<std::size_t>(number)] = fd;
  put(fd,
      Preamble{
          .magic = magic, .version = kVersion, .stream = static_cast<std::uint16_t>(number), .session = 0});
}

void hello() {
  put_frame(Frame::kHello,
            Hello{.init_started_ns = timeline::now_ns() - 1'000'000, .now_ns = timeline::now_ns()});
}

struct Request {
  Start head;
  std::string directory;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;
};

Request receive_start() {
  FrameHeader header;
  if (!get(&header, sizeof(header))) die("start");
  if (header.type == static_cast<std::uint32_t>(Frame::kShutdown)) ::_exit(0);
  if (header.type != static_cast<std::uint32_t>(Frame::kStart)) die("start");
  std::string body(header.length, '\0');
  if (!get(body.data(), body.size())) die("start body");
  Request request;
  std::memcpy(&request.head, body.data(), sizeof(Start));
  std::size_t at = sizeof(Start);
  const auto next = [&] {
    std::string word = body.c_str() + at;
    at += word.size() + 1;
    return word;
  };
  request.directory = next();
  for (std::uint32_t i = 0; i < request.head.argument_count; ++i) request.arguments.push_back(next());
  for (std::uint32_t i = 0; i < request.head.environment_count; ++i) request.environment.push_back(next());
  return request;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> out;
  for (std::string& word : words) out.push_back(word.data());
  out.push_back(nullptr);
  return out;
}

struct Child {
  pid_t pid;
  int master;  // of its terminal, or -1
};

Child start(Request& request) {
  int master = -1;
  std::string slave;
  if (request.head.flags & kStartTty) {
    master = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    ::grantpt(master);
    ::unlockpt(master);
    slave = ::ptsname(master);
    const winsize size{
        .ws_row = request.head.rows, .ws_col = request.head.columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(master, TIOCSWINSZ, &size);
  }
  std::array<int, 2> failed{};
  if (::pipe2(failed.data(), O_CLOEXEC) < 0) die("pipe");
  const pid_t pid = ::fork();
  if (pid == 0) {
    // A command ends with its machine.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    if (master >= 0) {
      const int tty = ::open(slave.c_str(), O_RDWR);
      ::ioctl(tty, TIOCSCTTY, 0);
      for (int fd = 0; fd < 3; ++fd) ::dup2(tty, fd);
    } else {
      for (int fd = 0; fd < 3; ++fd) ::dup2(streams[static_cast<std::size_t>(fd) + 1], fd);
    }
    if (!request.directory.empty() && ::chdir(request.directory.c_str()) < 0) ::_exit(125);
    if (request.environment.empty() || !request.environment.front().starts_with("PATH=")) {
      request.environment.emplace_back("PATH=/usr/local/bin:/usr/bin:/bin");
    }
    auto arguments = pointers(request.arguments);
    auto environment = pointers(request.environment);
    ::execvpe(arguments[0], arguments.data(), environment.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t n = ::write(failed[1], &error, sizeof(error));
    ::_exit(127);
  }
  ::close(failed[1]);
  int error = 0;
  if (::read(failed[0], &error, sizeof(error)) == sizeof(error)) {
    const std::string text = fmt::format("{}: {}", request.arguments[0], std::strerror(error));
    put(streams[0], FrameHeader{.type = static_cast<std::uint32_t>(Frame::kFailed),
                                .length = static_cast<std::uint32_t>(sizeof(Failed) + text.size())});
    put(streams[0], Failed{.exit_status = error == ENOENT ? 127U : 126U});
    ::send(streams[0], text.data(), text.size(), MSG_NOSIGNAL);
    return {-1, -1};
  }
  ::close(failed[0]);
  return {pid, master};
}

// False when the host asks for the end.
bool serve_frame(const Child& child) {
  FrameHeader header;
  if (!get(&header, sizeof(header))) ::pause();
  std::string body(header.length, '\0');
  if (!get(body.data(), body.size())) ::pause();
  switch (static_cast<Frame>(std::uint32_t{header.type})) {
    case Frame::kSignal: {
      Signal signal;
      std::memcpy(&signal, body.data(), sizeof(signal));
      if (child.pid > 0) ::kill(-child.pid, static_cast<int>(std::uint32_t{signal.number}));
      return true;
    }
    case Frame::kWindowSize: {
      mayfly::base::agent::WindowSize size;
      std::memcpy(&size, body.data(), sizeof(size));
      const winsize native{.ws_row = size.rows, .ws_col = size.columns, .ws_xpixel = 0, .ws_ypixel = 0};
      ::ioctl(child.master, TIOCSWINSZ, &native);
      return true;
    }
    case Frame::kShutdown:
      return false;
    default:
      return true;
  }
}

void copy_some(int from, int to) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(from, buffer.data(), buffer.size());
  if (n > 0) [[maybe_unused]]
    const ssize_t written = ::write(to, buffer.data(), static_cast<std::size_t>(n));
}

// Until the command ended and the host wants the machine gone.
void serve(Child child) {
  const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0));
  for (;;) {
    std::array<pollfd, 4> fds = {{{streams[0], POLLIN, 0},
                                  {pidfd, POLLIN, 0},
                                  {child.master, POLLIN, 0},
                                  {child.master >= 0 ? streams[1] : -1, POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), -1);
    if (fds[2].revents & POLLIN) copy_some(child.master, streams[2]);
    if (fds[3].revents & POLLIN) copy_some(streams[1], child.master);
    if (fds[0].revents != 0 && !serve_frame(child)) return;
    if (fds[1].revents == 0) continue;
    int status = 0;
    ::waitpid(child.pid, &status, 0);
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    put_frame(Frame::kExited,
              Exited{.now_ns = timeline::now_ns(),
                     .exit_status = static_cast<std::uint32_t>(signal ? 128 + signal : WEXITSTATUS(status)),
                     .signal = static_cast<std::uint32_t>(signal)});
    for (std::size_t i = 1; i < streams.size(); ++i) ::close(streams[i]);
    while (serve_frame({-1, -1})) continue;
    return;
  }
}

void started() {
  put_frame(Frame::kStarted, Started{.now_ns = timeline::now_ns(), .pid = 2, .reserved = 0});
}

// The ways in which a guest can be bad after the host said what to run.
[[noreturn]] void misbehave(const std::string& how) {
  if (how == "@panic") {
    std::printf("Kernel panic - not syncing: \033[31mtest\033[0m\n");
    std::fflush(stdout);
    ::_exit(10);
  }
  if (how == "@reset") ::_exit(0);
  if (how == "@triple-fault") ::_exit(11);
  if (how == "@kvm-error") die("KVM_RUN");
  if (how == "@killed") ::raise(SIGKILL);
  if (how == "@absurd-length") put(streams[0], FrameHeader{.type = 2, .length = 0xffffffff});
  if (how == "@unknown-frame") put(streams[0], FrameHeader{.type = 99, .length = 0});
  if (how == "@exit-before-start") put_frame(Frame::kExited, Exited{});
  if (how == "@hello-again") hello();
  if (how == "@bad-status") {
    started();
    put_frame(Frame::kExited, Exited{.now_ns = 0, .exit_status = 256, .signal = 0});
  }
  if (how == "@hang-up") ::close(streams[0]);
  if (how == "@deaf") started();
  ::pause();
  ::_exit(1);
}

// Plugs into the network that it is told of, and lets it be.
std::unique_ptr<mayfly::virtio::net::Backend> plug_in(const nlohmann::json& configuration) {
  if (!configuration.contains("network-interfaces")) return nullptr;
  const auto& interface = configuration["network-interfaces"][0];
  auto network = interface.contains("host_dev_name")
                     ? mayfly::virtio::net::open_tap(interface["host_dev_name"])
                     : mayfly::virtio::net::open_stream(interface["socket_path"]);
  if (network) return std::move(*network);
  std::fprintf(stderr, "mayfly-vmm: %s\n", network.error().message.c_str());
  ::_exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  std::string configuration_file;
  for (int i = 1; i + 1 < argc; ++i) {
    if (std::string_view(argv[i]) == "--config-file") configuration_file = argv[i + 1];
    if (std::string_view(argv[i]) == "--timing-fd") timeline::send_to(std::atoi(argv[i + 1]));
  }
  const auto text = read_file(configuration_file);
  if (!text) die("configuration");
  const auto configuration = nlohmann::json::parse(*text);
  vsock_path = configuration["vsock"]["uds_path"];
  const auto network = plug_in(configuration);
  const std::string kernel = configuration["boot-source"]["kernel_image_path"];
  timeline::mark("kvm");
  timeline::mark("kernel_loaded");
  timeline::mark("first_vcpu_entry");
  // What the kernel's file is called says how the boot goes wrong.
  if (kernel.ends_with("refuse")) {
    std::fprintf(stderr, "mayfly-vmm: kernel: refused\n");
    return 1;
  }
  if (kernel.ends_with("panic")) misbehave("@panic");
  if (kernel.ends_with("silent")) ::pause();
  if (kernel.ends_with("bad-magic")) {
    open_stream(0, 1);
    ::pause();
  }
  if (kernel.ends_with("flood")) {
    for (;;) connect_to_host();
  }
  if (kernel.ends_with("twice")) {
    open_stream(1);
    open_stream(1);
    ::pause();
  }
  for (int i = 0; i < 4; ++i) open_stream(i);
  hello();
  Request request = receive_start();
  if (request.arguments[0].starts_with('@')) misbehave(request.arguments[0]);
  const Child child = start(request);
  if (child.pid < 0) {
    while (serve_frame(child)) continue;
    return 0;
  }
  started();
  // The command alone holds its streams now, but for those that we serve its terminal with.
  if (child.master < 0) {
    for (std::size_t i = 1; i < streams.size(); ++i) {
      ::close(streams[i]);
      streams[i] = -1;
    }
  }
  serve(child);
  return 0;
}
