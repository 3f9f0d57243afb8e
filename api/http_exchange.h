// One request and its response, as bytes: what cpp-httplib does for the server.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "api/http_server.h"

namespace mayfly::api {

// What came of the bytes that a client has sent so far.
struct HttpOutcome {
  std::size_t used = 0;    // bytes of the request that was answered; 0: it has not all arrived
  std::size_t needed = 0;  // bytes that it takes in all, where that is known by now
  std::string reply{};     // to send now: the response, or that the body may be sent (Expect: 100-continue)
  bool last = false;       // the connection ends after the reply
};

class HttpExchange {
 public:
  HttpExchange(std::size_t largest_body, HttpServer::Handler handler);
  ~HttpExchange();
  HttpExchange(const HttpExchange&) = delete;
  HttpExchange& operator=(const HttpExchange&) = delete;

  // Answers the request that `bytes` starts with, once it is whole. `invited`: a reply said already that the
  // body may be sent. What is no request is answered with a fault, and is the connection's last.
  HttpOutcome next(std::string_view bytes, bool invited);

 private:
  class Parser;
  std::unique_ptr<Parser> parser_;
};

}  // namespace mayfly::api
