// HTTP/1.x requests and responses as bytes (RFC 9112): only what a server needs that answers from memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mayfly::mmds {

// Request line and headers, and the content of a request, may be no longer than this.
inline constexpr std::size_t kLargestHead = 8192;
inline constexpr std::size_t kLargestBody = 8192;

// Views into the bytes it was parsed from.
struct Request {
  std::string_view method;
  std::string_view path;  // of the target, from its first /; without the host of an absolute one
  std::string_view headers;
  std::size_t size = 0;  // bytes of all of the request, its content included
  bool keep_alive = true;

  // The value of the first header of that name (in any case), without blanks around it.
  [[nodiscard]] std::optional<std::string_view> header(std::string_view name) const;
};

enum class StatusCode : std::uint16_t {
  kOk = 200,
  kBadRequest = 400,
  kUnauthorized = 401,
  kNotFound = 404,
  kMethodNotAllowed = 405,
  kContentTooLarge = 413,
  kHeadersTooLarge = 431,
  kInternalError = 500,
  kNotImplemented = 501,
  kVersionNotSupported = 505,
};

// More bytes are needed.
struct Incomplete {};
// This is no request; where the next one starts cannot be told, so the connection has to end.
struct Malformed {
  StatusCode status;
  std::string_view why;
};

// The request that `bytes` starts with. Pure; bounded by kLargestHead, whatever the bytes.
std::variant<Incomplete, Malformed, Request> parse_request(std::string_view bytes);

struct Response {
  StatusCode status = StatusCode::kOk;
  std::string_view content_type = "text/plain";
  std::string body = {};
  std::vector<std::pair<std::string_view, std::string>> headers = {};  // besides those of every response
};

// As it is sent. `keep_alive`: whether the connection goes on after it.
std::string to_bytes(const Response& response, bool keep_alive);

}  // namespace mayfly::mmds
