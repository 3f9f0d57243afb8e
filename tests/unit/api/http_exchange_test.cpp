#include "api/http_exchange.h"

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "tests/unit/api/http_bytes.h"

using namespace mayfly;
using namespace mayfly::api;
using Catch::Contains;
using test::http_put;

namespace {

// An exchange whose handler remembers what it was asked, and says "answer".
struct Exchange {
  std::vector<std::string> asked;  // METHOD PATH BODY
  HttpResponse response{.status = 200, .content = "answer", .type = "text/plain"};
  HttpExchange exchange{1000, [this](const HttpRequest& request) {
                          asked.push_back(std::string(request.method) + " " + std::string(request.path) +
                                          " " + std::string(request.body));
                          return response;
                        }};

  HttpOutcome next(std::string_view bytes, bool invited = false) { return exchange.next(bytes, invited); }
};

}  // namespace

TEST_CASE("a request is handed on and answered") {
  Exchange e;
  const std::string request = http_put("/drives/a%5Fb?x=1", "{\"a\": 1}");
  const HttpOutcome outcome = e.next(request);
  CHECK(outcome.used == request.size());
  CHECK_FALSE(outcome.last);
  REQUIRE(e.asked == std::vector<std::string>{"PUT /drives/a_b {\"a\": 1}"});
  CHECK_THAT(outcome.reply, Contains("HTTP/1.1 200 OK\r\n") && Contains("Content-Length: 6\r\n") &&
                                Contains("Content-Type: text/plain\r\n") && Contains("\r\n\r\nanswer"));
}

TEST_CASE("no content is 204 without a length") {
  Exchange e;
  e.response = {.status = 204};
  const HttpOutcome outcome = e.next(http_put("/x", "{}"));
  CHECK_THAT(outcome.reply, Contains("HTTP/1.1 204 No Content\r\n"));
  CHECK_THAT(outcome.reply, !Contains("Content-Length"));
  CHECK(outcome.reply.ends_with("\r\n\r\n"));
}

TEST_CASE("what has come in part is not handed on, wherever it is cut") {
  const std::string request = http_put("/x", "0123456789");
  for (std::size_t size = 0; size < request.size(); ++size) {
    CAPTURE(size);
    Exchange e;
    const HttpOutcome outcome = e.next(request.substr(0, size));
    CHECK(outcome.used == 0);
    CHECK(outcome.reply.empty());
    CHECK(e.asked.empty());
    if (size >= request.size() - 10) CHECK(outcome.needed == request.size());
  }
}

TEST_CASE("one request is taken at a time") {
  Exchange e;
  const std::string first = http_put("/a", "1");
  const HttpOutcome outcome = e.next(first + http_put("/b", "2"));
  CHECK(outcome.used == first.size());
  CHECK(e.asked == std::vector<std::string>{"PUT /a 1"});
}

TEST_CASE("a client that waits to be asked for its body is asked once") {
  Exchange e;
  const std::string head = "PUT /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
  const HttpOutcome invitation = e.next(head);
  CHECK(invitation.used == 0);
  CHECK(invitation.reply == "HTTP/1.1 100 Continue\r\n\r\n");
  CHECK(e.next(head + "bo", true).reply.empty());
  const HttpOutcome answer = e.next(head + "body", true);
  CHECK(answer.reply.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(e.asked == std::vector<std::string>{"PUT /x body"});
}

TEST_CASE("a client may end the connection with a request") {
  Exchange e;
  CHECK(e.next("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").last);
  CHECK(e.next("GET / HTTP/1.0\r\n\r\n").last);
  CHECK_FALSE(e.next("GET / HTTP/1.1\r\nHost: x\r\n\r\n").last);
  CHECK(e.asked.size() == 3);
}

TEST_CASE("what is no request ends the connection with a fault") {
  const std::string long_head =
      "GET / HTTP/1.1\r\nX: " + std::string(HttpServer::kLargestHead, 'x') + "\r\n\r\n";
  const std::string many_ranges = [] {
    std::string text = "GET / HTTP/1.1\r\nRange: bytes=0-0";
    while (text.size() < HttpServer::kLargestHead - 100) text += ",0-0";
    return text + "x\r\n\r\n";
  }();
  const auto head = [](std::string_view lines) {
    return "PUT /x HTTP/1.1\r\nHost: x\r\n" + std::string(lines) + "\r\n\r\n{}";
  };
  struct Case {
    std::string bytes;
    const char* status;
  };
  const std::vector<Case> cases = {
      {"\r\n\r\n", "400"},
      {"nonsense\r\n\r\n", "400"},
      {"GET / HTTP/2.0\r\n\r\n", "400"},
      {"GET /\r\n\r\n", "400"},
      {"BREW /tea HTTP/1.1\r\n\r\n", "400"},
      {std::string("G\0T / HTTP/1.1\r\n\r\n", 18), "400"},
      {"GET /" + std::string(8000, 'a') + " HTTP/1.1\r\n", nullptr},  // not all there: no answer yet
      {long_head, "431"},
      {std::string(HttpServer::kLargestHead, '\n'), "431"},
      {many_ranges, "416"},
      {head("Transfer-Encoding: chunked"), "400"},
      {head("Content-Length: -1"), "400"},
      {head("Content-Length: 2x"), "400"},
      {head("Content-Length: 99999999999999999999999"), "400"},
      {head("Content-Length: 2\r\nContent-Length: 3"), "400"},
      {head("Content-Length: 1001"), "413"},
      {head("Content-Length: 1073741824"), "413"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.bytes.substr(0, 100));
    Exchange e;
    const HttpOutcome outcome = e.next(c.bytes);
    CHECK(e.asked.empty());
    if (c.status == nullptr) {
      CHECK(outcome.reply.empty());
      continue;
    }
    CHECK(outcome.last);
    CHECK(outcome.used == c.bytes.size());
    CHECK_THAT(outcome.reply,
               Contains(std::string("HTTP/1.1 ") + c.status) && Contains("\r\n\r\n{\"fault_message\":"));
  }
}
