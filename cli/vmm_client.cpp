#include "cli/vmm_client.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/json.h"
#include "base/unique_fd.h"
#include "cli/frames.h"
#include "cli/machine_control.h"

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::Status;
using base::UniqueFd;

// As little of HTTP/1.1 (RFC 9112) as a client of a server that we know needs: one request a connection,
// whose end is the answer's. An HTTP library's client would bring name resolution along, which a static
// executable cannot have.
namespace {

constexpr std::size_t kLongestAnswer = 4U << 20U;
constexpr std::size_t kLongestFault = 1024;
constexpr std::string_view kProtocol = "HTTP/1.1 ";

using Clock = std::chrono::steady_clock;

Status wait_for(const UniqueFd& fd, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd entry{.fd = fd.get(), .events = events, .revents = 0};
    const int ready = left > 0 ? ::poll(&entry, 1, static_cast<int>(left)) : 0;
    if (ready > 0) return {};
    if (ready == 0) return fail("it took too long");
    if (errno != EINTR) return fail_errno(errno, "poll");
  }
}

Status send_all(const UniqueFd& fd, std::string_view bytes, Clock::time_point deadline) {
  while (!bytes.empty()) {
    TRY(wait_for(fd, POLLOUT, deadline));
    const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return fail_errno(errno, "send");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<std::string> receive_all(const UniqueFd& fd, Clock::time_point deadline) {
  std::string all;
  std::array<char, 16384> buffer;
  while (all.size() <= kLongestAnswer) {
    TRY(wait_for(fd, POLLIN, deadline));
    const ssize_t n = ::recv(fd.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n < 0) return fail_errno(errno, "receive");
    if (n == 0) return all;
    all.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return fail("its answer has no end");
}

struct Answer {
  int status = 0;
  std::string body;
};

Result<Answer> exchange(const std::string& socket, std::chrono::milliseconds patience,
                        const std::string& request) {
  const Clock::time_point deadline = Clock::now() + patience;
  const UniqueFd fd = TRY(connect_to(socket));
  TRY(send_all(fd, request, deadline));
  const std::string text = TRY(receive_all(fd, deadline));
  Answer answer;
  const std::size_t head = text.find("\r\n\r\n");
  const std::string_view status = std::string_view(text).substr(std::min(kProtocol.size(), text.size()), 3);
  const auto parsed = std::from_chars(status.data(), status.data() + status.size(), answer.status);
  if (!text.starts_with(kProtocol) || head == std::string::npos || parsed.ec != std::errc{}) {
    return fail("its answer is not HTTP");
  }
  answer.body = text.substr(head + 4);
  return answer;
}

// {"fault_message": "…"}, or whatever it is.
std::string fault_of(const std::string& body) {
  const auto json = base::parse_json(body, "the answer");
  if (json && json->is_object() && json->contains("fault_message") && (*json)["fault_message"].is_string()) {
    return printable((*json)["fault_message"].get<std::string>(), kLongestFault);
  }
  return printable(body, kLongestFault);
}

Result<std::string> call(const std::string& socket, std::chrono::milliseconds patience,
                         const std::string& request) {
  Result<Answer> answer = exchange(socket, patience, request);
  if (!answer) {
    return base::fail_because(std::move(answer).error(), "the virtual machine monitor does not answer");
  }
  if (answer->status / 100 != 2) return fail("{}", fault_of(answer->body));
  return std::move(answer->body);
}

}  // namespace

Result<std::string> VmmClient::get(const std::string& path) const {
  return call(socket_, patience_,
              fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path));
}

Status VmmClient::patch(const std::string& path, const std::string& body) const {
  TRY(call(socket_, patience_,
           fmt::format("PATCH {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                       "application/json\r\nContent-Length: {}\r\n\r\n{}",
                       path, body.size(), body)));
  return {};
}

}  // namespace mayfly::cli
