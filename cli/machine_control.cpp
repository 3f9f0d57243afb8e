#include "cli/machine_control.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <thread>
#include <utility>

#include "cli/frames.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

using namespace std::chrono_literals;

constexpr const char* kSocket = "/control";
constexpr std::size_t kLongestLine = 64;
constexpr std::size_t kLongestAnswer = 64U << 10U;
constexpr std::int64_t kLongestGrace = 1'000'000'000;  // ms
constexpr std::string_view kStop = "stop ";
constexpr std::string_view kEnded = "ended ";
constexpr std::string_view kFailed = "failed ";

template <typename T>
bool read_number(std::string_view text, T& value) {
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && rest == text.data() + text.size();
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::create(base::EventLoop& loop, const std::string& folder,
                                                             Handlers handlers) {
  std::unique_ptr<ControlServer> server(new ControlServer(loop, std::move(handlers)));
  server->listener_ = TRY(Listener::create(loop, folder + kSocket,
                                           [raw = server.get()](UniqueFd fd) { raw->add(std::move(fd)); }));
  return server;
}

ControlServer::~ControlServer() {
  for (const Client& each : clients_) loop_.remove(each.fd.get());
}

void ControlServer::add(UniqueFd fd) {
  if (clients_.size() >= kMostClients) return;
  const auto client = clients_.insert(clients_.end(), Client{.fd = std::move(fd), .line = {}});
  const Status added = loop_.add(client->fd.get(), EPOLLIN, [this, client](std::uint32_t) { serve(client); });
  if (!added) clients_.erase(client);
}

void ControlServer::serve(std::list<Client>::iterator client) {
  std::array<char, kLongestLine> buffer;
  const ssize_t n = ::recv(client->fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n > 0) client->line.append(buffer.data(), static_cast<std::size_t>(n));
  const std::size_t end = client->line.find('\n');
  const bool good = n > 0 && (end == std::string::npos ? client->line.size() < kLongestLine
                                                       : obey(client->line.substr(0, end)));
  if (end != std::string::npos) client->line.clear();
  if (good) return;
  loop_.remove(client->fd.get());
  clients_.erase(client);
}

bool ControlServer::obey(const std::string& line) {
  if (line == "wait") return true;
  if (line == "kill") {
    handlers_.on_kill();
    return true;
  }
  std::int64_t ms = 0;
  if (!line.starts_with(kStop) || !read_number(std::string_view(line).substr(kStop.size()), ms)) return false;
  handlers_.on_stop(std::chrono::milliseconds(std::clamp<std::int64_t>(ms, 0, kLongestGrace)));
  return true;
}

void ControlServer::tell_end(const Result<int>& result) {
  const std::string answer = result ? fmt::format("{}{}\n", kEnded, *result)
                                    : fmt::format("{}{}\n", kFailed, result.error().message);
  for (const Client& each : clients_) {
    ::send(each.fd.get(), answer.data(), answer.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    ::shutdown(each.fd.get(), SHUT_WR);
  }
}

Result<UniqueFd> connect_to(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return fail("{} is too long for a socket", path);
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "create a socket");
  const auto* const generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::connect(fd.get(), generic, sizeof(address)) < 0) return fail_errno(errno, "connect to {}", path);
  return fd;
}

Result<ControlClient> ControlClient::ask(const FoundMachine& machine, const std::string& request) {
  // Its socket appears soon after the machine's lock, and goes soon before it.
  Result<UniqueFd> fd = connect_to(machine.path + kSocket);
  while (!fd && is_kept(machine)) {
    std::this_thread::sleep_for(20ms);
    fd = connect_to(machine.path + kSocket);
  }
  if (!fd) return ControlClient(UniqueFd(), machine.facts.name);
  const std::string line = request + "\n";
  // To one that is closing, nothing needs to be said.
  ::send(fd->get(), line.data(), line.size(), MSG_NOSIGNAL);
  return ControlClient(std::move(*fd), machine.facts.name);
}

Result<int> ControlClient::wait() {
  std::string answer;
  std::array<char, 4096> buffer;
  while (fd_.valid() && answer.size() < kLongestAnswer) {
    const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    answer.append(buffer.data(), static_cast<std::size_t>(n));
  }
  while (answer.ends_with('\n')) answer.pop_back();
  const std::string_view text = answer;
  int status = 0;
  if (text.starts_with(kEnded) && read_number(text.substr(kEnded.size()), status)) return status;
  if (text.starts_with(kFailed)) return fail("{}: {}", name_, text.substr(kFailed.size()));
  return std::unexpected(base::Error{
      kNobodyKnows, fmt::format("{}: the machine ended, and there is nobody left who knows why", name_)});
}

}  // namespace mayfly::cli
