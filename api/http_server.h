// HTTP/1.1 on a unix stream socket (RFC 9112), for clients that may be slow, many, or wrong.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace mayfly::api {

struct HttpRequest {
  std::string_view method;
  std::string_view path;  // without escapes and query
  std::string_view body;
};

struct HttpResponse {
  int status = 200;
  std::string content{};  // empty: none
  std::string type = "application/json";
};

// A thread of its own, named "api", serves all connections; none can make another wait but by the time that
// the handler takes. There are at most kMostConnections: for one more, the one that has been idle longest is
// closed. A connection costs at most a head, a body and the answer to it in memory.
class HttpServer {
 public:
  static constexpr std::size_t kMostConnections = 256;
  // Of a request: its line and its headers.
  static constexpr std::size_t kLargestHead = 8192;

  // On the server's thread, one at a time.
  using Handler = std::function<HttpResponse(const HttpRequest&)>;

  // Once it returns, the socket `path` is there and answers; it was not there before, else an error. Refuses
  // with 413 what has a body of more than `largest_body` bytes. `confine`: the first act of the server's
  // thread, to give up what it will not need; an error, and there is no server. Null: nothing.
  static base::Result<std::unique_ptr<HttpServer>> create(const std::string& path, std::size_t largest_body,
                                                          Handler handler,
                                                          std::function<base::Status()> confine = {});
  // Closes every connection and removes the socket. What the handler waits for must end.
  virtual ~HttpServer() = default;
};

}  // namespace mayfly::api
