#include "cli/publish.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>

namespace mayfly::cli {

using base::fail;
using base::fail_errno;
using base::Result;
using base::UniqueFd;

namespace {

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, port);
  if (error != std::errc{} || rest != end || port == 0) return std::nullopt;
  return port;
}

std::unexpected<base::Error> malformed(const std::string& text) {
  return fail("--publish: {} is not [ADDRESS:]HOST:GUEST[/udp], as in 8080:80 or 127.0.0.1:5353:53/udp",
              text);
}

}  // namespace

Result<Publish> parse_publish(const std::string& text) {
  Publish publish{.address = {}, .text = text};
  std::string_view rest = text;
  if (const std::size_t slash = rest.find('/'); slash != std::string_view::npos) {
    const std::string_view protocol = rest.substr(slash + 1);
    if (protocol != "tcp" && protocol != "udp") return malformed(text);
    publish.udp = protocol == "udp";
    rest = rest.substr(0, slash);
  }
  const std::size_t last = rest.rfind(':');
  if (last == std::string_view::npos) return malformed(text);
  const auto guest = parse_port(rest.substr(last + 1));
  rest = rest.substr(0, last);
  if (const std::size_t colon = rest.rfind(':'); colon != std::string_view::npos) {
    publish.address = parse_ipv4(rest.substr(0, colon));
    if (!publish.address) return malformed(text);
    if (publish.address->value == 0) publish.address.reset();
    rest = rest.substr(colon + 1);
  }
  const auto host = parse_port(rest);
  if (!guest || !host) return malformed(text);
  publish.host_port = *host;
  publish.guest_port = *guest;
  return publish;
}

bool conflict(const Publish& one, const Publish& other) {
  const bool apart = one.address && other.address && *one.address != *other.address;
  return one.udp == other.udp && one.host_port == other.host_port && !apart;
}

Result<UniqueFd> bind_port(const Publish& publish) {
  const int type = publish.udp ? SOCK_DGRAM : SOCK_STREAM;
  UniqueFd fd(::socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(errno, "create a socket");
  // A port whose last connections have only just ended is free.
  const int on = 1;
  if (!publish.udp) ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(publish.address.value_or(Ipv4{}).value);
  address.sin_port = htons(publish.host_port);
  const auto* const generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  if (::bind(fd.get(), generic, sizeof(address)) == 0) return fd;
  const int code = errno;
  switch (code) {
    case EADDRINUSE:
      return fail("--publish {}: port {} of this host is in use (ss -{}lnp shows by whom); take another",
                  publish.text, publish.host_port, publish.udp ? 'u' : 't');
    case EACCES:
      return fail(
          "--publish {}: port {} is for root only; take one from 1024 on, or lower "
          "sysctl net.ipv4.ip_unprivileged_port_start",
          publish.text, publish.host_port);
    case EADDRNOTAVAIL:
      return fail("--publish {}: {} is no address of this host (ip address shows them)", publish.text,
                  to_text(*publish.address));
    default:
      return fail_errno(code, "--publish {}: bind port {}", publish.text, publish.host_port);
  }
}

}  // namespace mayfly::cli
