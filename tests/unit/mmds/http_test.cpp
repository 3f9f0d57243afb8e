#include "mmds/http.h"

#include <catch2/catch.hpp>

#include <string>

using namespace mayfly::mmds;

namespace {

Request good(std::string_view bytes) {
  const auto parsed = parse_request(bytes);
  REQUIRE(std::holds_alternative<Request>(parsed));
  return std::get<Request>(parsed);
}
unsigned refused(std::string_view bytes) {
  const auto parsed = parse_request(bytes);
  REQUIRE(std::holds_alternative<Malformed>(parsed));
  return static_cast<unsigned>(std::get<Malformed>(parsed).status);
}
bool incomplete(std::string_view bytes) {
  return std::holds_alternative<Incomplete>(parse_request(bytes));
}

}  // namespace

TEST_CASE("mmds http: a request") {
  const std::string bytes =
      "GET /latest/x HTTP/1.1\r\nHost: 169.254.169.254\r\nX-Token:  a b \t\r\nEmpty:\r\n\r\nGET /next";
  const Request request = good(bytes);
  CHECK(request.method == "GET");
  CHECK(request.path == "/latest/x");
  CHECK(request.size == bytes.size() - 9);
  CHECK(request.keep_alive);
  CHECK(request.header("x-tOKEN") == "a b");
  CHECK(request.header("host") == "169.254.169.254");
  CHECK(request.header("Empty") == "");
  CHECK_FALSE(request.header("X-Toke"));
  CHECK_FALSE(request.header("X-Token2"));
}

TEST_CASE("mmds http: every prefix of a request is incomplete") {
  const std::string bytes = "PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\n12345";
  for (std::size_t n = 0; n < bytes.size(); ++n) CHECK(incomplete(bytes.substr(0, n)));
  CHECK(good(bytes).size == bytes.size());
  CHECK(good(bytes + "more").size == bytes.size());
}

TEST_CASE("mmds http: lines may end without CR, and empty lines may come first") {
  const Request request = good("\r\n\n\r\nGET / HTTP/1.0\nA: b\n\n");
  CHECK(request.path == "/");
  CHECK(request.header("A") == "b");
  CHECK(request.size == 26);
}

TEST_CASE("mmds http: targets") {
  CHECK(good("GET http://169.254.169.254/a/b HTTP/1.1\r\n\r\n").path == "/a/b");
  CHECK(good("GET HTTP://host HTTP/1.1\r\n\r\n").path == "/");
  CHECK(good("GET /\xc3\xa4 HTTP/1.1\r\n\r\n").path == "/\xc3\xa4");
  for (const char* target : {"", "*", "a", "a/b", "ftp://h/a", "/a\tb", "/a\x01", "/a b"}) {
    CAPTURE(target);
    CHECK(refused(std::string("GET ") + target + " HTTP/1.1\r\n\r\n") == 400);
  }
}

TEST_CASE("mmds http: whether the connection goes on") {
  CHECK(good("GET / HTTP/1.1\r\n\r\n").keep_alive);
  CHECK_FALSE(good("GET / HTTP/1.0\r\n\r\n").keep_alive);
  CHECK_FALSE(good("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").keep_alive);
  CHECK_FALSE(good("GET / HTTP/1.1\r\nConnection: TE , Close\r\n\r\n").keep_alive);
  CHECK(good("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n").keep_alive);
}

TEST_CASE("mmds http: malformed requests") {
  for (const char* bytes :
       {"GET\r\n\r\n", "GET /\r\n\r\n", "GET / FTP/1.1\r\n\r\n", " GET / HTTP/1.1\r\n\r\n",
        "G(T / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nA : x\r\n\r\n", "GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nA: x\ry\r\n\r\n", "GET / HTTP/1.1\r\nA: \x01\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", "PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
        "PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"}) {
    CAPTURE(bytes);
    CHECK(refused(bytes) == 400);
  }
  CHECK(refused(std::string("GET / HTTP/1.1\r\nA: ") + '\0' + "\r\n\r\n") == 400);
  CHECK(refused("GET / HTTP/2.0\r\n\r\n") == 505);
  CHECK(refused("GET / HTTP/1.10\r\n\r\n") == 505);
  CHECK(refused("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n") == 501);
  CHECK(refused("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n") == 413);
  CHECK(refused("PUT / HTTP/1.1\r\nContent-Length: 8193\r\n\r\n") == 413);
}

TEST_CASE("mmds http: the head is limited") {
  const std::string start = "GET / HTTP/1.1\r\nA: ";
  const std::string most = start + std::string(kLargestHead - start.size() - 4, 'x') + "\r\n\r\n";
  CHECK(good(most).size == kLargestHead);
  const std::string more = start + std::string(kLargestHead - start.size() - 3, 'x') + "\r\n\r\n";
  CHECK(incomplete(more.substr(0, kLargestHead - 1)));
  CHECK(refused(more) == 431);
  CHECK(refused(std::string(kLargestHead, 'x')) == 431);
  CHECK(refused(std::string(kLargestHead, '\n')) == 431);
}

TEST_CASE("mmds http: a response") {
  CHECK(to_bytes({.status = StatusCode::kNotFound, .body = "no", .headers = {{"Allow", "GET"}}}, true) ==
        "HTTP/1.1 404 Not Found\r\nServer: Mayfly\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n"
        "Connection: keep-alive\r\nAllow: GET\r\n\r\nno");
  CHECK(to_bytes({}, false) ==
        "HTTP/1.1 200 OK\r\nServer: Mayfly\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nConnection: "
        "close\r\n\r\n");
}
