#include "mmds/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <expected>

namespace mayfly::mmds {

namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool same(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

// RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
  constexpr std::string_view kOthers = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return (lower(c) >= 'a' && lower(c) <= 'z') || (c >= '0' && c <= '9') ||
           kOthers.find(c) != std::string_view::npos;
  });
}

// Takes the next line off, without its end: CRLF, or LF alone (RFC 9112, section 2.2). Nothing: there is no
// end.
std::optional<std::string_view> take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  std::string_view line = text.substr(0, end);
  if (line.ends_with('\r')) line.remove_suffix(1);
  text.remove_prefix(end + 1);
  return line;
}

std::string_view reason(StatusCode status) {
  switch (status) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kBadRequest:
      return "Bad Request";
    case StatusCode::kUnauthorized:
      return "Unauthorized";
    case StatusCode::kNotFound:
      return "Not Found";
    case StatusCode::kMethodNotAllowed:
      return "Method Not Allowed";
    case StatusCode::kContentTooLarge:
      return "Content Too Large";
    case StatusCode::kHeadersTooLarge:
      return "Request Header Fields Too Large";
    case StatusCode::kInternalError:
      return "Internal Server Error";
    case StatusCode::kNotImplemented:
      return "Not Implemented";
    case StatusCode::kVersionNotSupported:
      return "HTTP Version Not Supported";
  }
  return "";
}

using Parsed = std::expected<void, Malformed>;
std::unexpected<Malformed> bad(std::string_view why) {
  return std::unexpected(Malformed{StatusCode::kBadRequest, why});
}

// RFC 9112, section 3: method, target, version, one blank between.
Parsed parse_request_line(std::string_view line, Request& request) {
  const std::size_t first = line.find(' ');
  const std::size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return bad("The request line is malformed.");
  request.method = line.substr(0, first);
  std::string_view target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  if (!is_token(request.method)) return bad("The method is malformed.");
  if (!version.starts_with("HTTP/")) return bad("The request line is malformed.");
  if (version != "HTTP/1.1" && version != "HTTP/1.0") {
    return std::unexpected(Malformed{StatusCode::kVersionNotSupported, "Use HTTP/1.1 or HTTP/1.0."});
  }
  request.keep_alive = version == "HTTP/1.1";
  constexpr std::string_view kScheme = "http://";
  if (target.size() > kScheme.size() && same(target.substr(0, kScheme.size()), kScheme)) {
    target.remove_prefix(kScheme.size());
    target.remove_prefix(std::min(target.find('/'), target.size()));
    if (target.empty()) target = "/";
  }
  const bool odd =
      std::ranges::any_of(target, [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == '\x7f'; });
  if (!target.starts_with('/') || odd) return bad("The request's target is malformed.");
  request.path = target;
  return {};
}

Parsed check_header_line(std::string_view line) {
  const std::size_t colon = line.find(':');
  // A name that ends in a blank, or a line that continues the one before, is how requests are smuggled
  // (RFC 9112, sections 5.1 and 5.2).
  if (colon == std::string_view::npos || !is_token(line.substr(0, colon)))
    return bad("A header is malformed.");
  const bool odd = std::ranges::any_of(
      line.substr(colon + 1), [](char c) { return (c >= '\0' && c < ' ' && c != '\t') || c == '\x7f'; });
  if (odd) return bad("A header is malformed.");
  return {};
}

// RFC 9112, section 6.3.
std::expected<std::size_t, Malformed> content_length(const Request& request) {
  if (request.header("Transfer-Encoding")) {
    return std::unexpected(Malformed{StatusCode::kNotImplemented, "Transfer-Encoding is not supported."});
  }
  std::optional<std::size_t> length;
  for (std::string_view rest = request.headers; auto line = take_line(rest);) {
    const std::size_t colon = std::min(line->find(':'), line->size());
    if (!same(line->substr(0, colon), "Content-Length")) continue;
    const std::string_view text = trim(line->substr(colon + 1));
    std::size_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = !text.empty() && end == text.data() + text.size();
    if (error == std::errc::result_out_of_range) value = kLargestBody + 1;
    if (!whole || error == std::errc::invalid_argument || (length && *length != value)) {
      return bad("Content-Length is malformed.");
    }
    length = value;
  }
  if (length > kLargestBody) {
    return std::unexpected(Malformed{StatusCode::kContentTooLarge, "The request's content is too large."});
  }
  return length.value_or(0);
}

void read_connection_header(Request& request) {
  std::string_view options = request.header("Connection").value_or("");
  while (!options.empty()) {
    const std::size_t end = std::min(options.find(','), options.size());
    const std::string_view option = trim(options.substr(0, end));
    if (same(option, "close")) request.keep_alive = false;
    if (same(option, "keep-alive")) request.keep_alive = true;
    options.remove_prefix(std::min(end + 1, options.size()));
  }
}

// `head`: from the request line to the empty line, which is left out.
std::variant<Incomplete, Malformed, Request> parse_head(std::string_view head, std::size_t head_size,
                                                        std::size_t available) {
  Request request;
  const auto line = take_line(head);
  if (!line) return Malformed{StatusCode::kBadRequest, "The request is empty."};
  if (auto parsed = parse_request_line(*line, request); !parsed) return parsed.error();
  request.headers = head;
  for (std::string_view rest = head; auto header = take_line(rest);) {
    if (auto parsed = check_header_line(*header); !parsed) return parsed.error();
  }
  const auto body = content_length(request);
  if (!body) return body.error();
  read_connection_header(request);
  request.size = head_size + *body;
  if (request.size > available) return Incomplete{};
  return request;
}

}  // namespace

std::optional<std::string_view> Request::header(std::string_view name) const {
  for (std::string_view rest = headers; auto line = take_line(rest);) {
    const std::size_t colon = std::min(line->find(':'), line->size());
    if (same(line->substr(0, colon), name)) return trim(line->substr(std::min(colon + 1, line->size())));
  }
  return std::nullopt;
}

std::variant<Incomplete, Malformed, Request> parse_request(std::string_view bytes) {
  const std::size_t available = bytes.size();
  bytes = bytes.substr(0, kLargestHead);
  std::string_view rest = bytes;
  // Empty lines before a request are ignored (RFC 9112, section 2.2).
  while (rest.starts_with('\n') || rest.starts_with("\r\n")) take_line(rest);
  const std::string_view start = rest;
  for (;;) {
    const std::size_t before = rest.size();
    const auto line = take_line(rest);
    if (!line) break;
    if (line->empty()) {
      return parse_head(start.substr(0, start.size() - before), bytes.size() - rest.size(), available);
    }
  }
  if (available < kLargestHead) return Incomplete{};
  return Malformed{StatusCode::kHeadersTooLarge, "The request's headers are too large."};
}

std::string to_bytes(const Response& response, bool keep_alive) {
  std::string bytes = fmt::format(
      "HTTP/1.1 {} {}\r\nServer: Mayfly\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: {}\r\n",
      static_cast<unsigned>(response.status), reason(response.status), response.content_type,
      response.body.size(), keep_alive ? "keep-alive" : "close");
  for (const auto& [name, value] : response.headers) bytes += fmt::format("{}: {}\r\n", name, value);
  return bytes + "\r\n" + response.body;
}

}  // namespace mayfly::mmds
