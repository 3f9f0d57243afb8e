#include "mmds/service.h"

#include <catch2/catch.hpp>

#include <string>

using namespace mayfly;
using namespace mayfly::mmds;
using std::chrono::seconds;

namespace {

struct ServiceBench {
  explicit ServiceBench(Version version = Version::kV1, bool imds_compat = false) {
    REQUIRE(store->put(R"({"latest": {"id": "i-1", "n": 1}})"));
    service =
        Service::create({.network_interfaces = {}, .version = version, .imds_compat = imds_compat}, store)
            .value();
  }
  Response ask(std::string_view start, std::string_view headers = "") {
    const std::string bytes = fmt::format("{} HTTP/1.1\r\n{}\r\n", start, headers);
    const auto parsed = parse_request(bytes);
    REQUIRE(std::holds_alternative<Request>(parsed));
    return service->answer(std::get<Request>(parsed), now, metrics);
  }
  unsigned status(std::string_view start, std::string_view headers = "") {
    return static_cast<unsigned>(ask(start, headers).status);
  }
  std::string token(unsigned ttl) {
    const auto response =
        ask("PUT /latest/api/token", fmt::format("X-metadata-token-ttl-seconds: {}\r\n", ttl));
    REQUIRE(response.status == StatusCode::kOk);
    return response.body;
  }
  std::shared_ptr<Store> store = std::make_shared<Store>();
  std::shared_ptr<Service> service;
  Time now = Time(seconds(5));
  Metrics metrics;
};

}  // namespace

TEST_CASE("mmds service: version 1 answers without a token") {
  ServiceBench b;
  const auto response = b.ask("GET /latest/id");
  CHECK(response.status == StatusCode::kOk);
  CHECK(response.content_type == "text/plain");
  CHECK(response.body == "i-1");
  CHECK(b.status("GET /nothing") == 404);
  CHECK(b.status("GET /latest/n") == 501);
  CHECK(b.metrics.rx_no_token == 3);
  CHECK(b.status("GET /latest/id", "X-metadata-token: wrong\r\n") == 200);
  CHECK(b.metrics.rx_invalid_token == 1);
  // Tokens are there to be had, for whoever is on the way to version 2.
  CHECK(b.status("GET /latest/id", "X-metadata-token: " + b.token(60) + "\r\n") == 200);
  CHECK(b.metrics.rx_invalid_token == 1);
}

TEST_CASE("mmds service: what is accepted decides the form") {
  ServiceBench b;
  for (const char* accept : {"application/json", "Application/JSON", "application/json; q=1, */*",
                             "image/png, application/json"}) {
    CAPTURE(accept);
    const auto response = b.ask("GET /latest/n", fmt::format("Accept: {}\r\n", accept));
    CHECK(response.content_type == "application/json");
    CHECK(response.body == "1");
  }
  for (const char* accept :
       {"*/*", "text/plain", "text/plain, application/json", "image/png", "", "application/jsonx"}) {
    CAPTURE(accept);
    CHECK(b.ask("GET /latest", fmt::format("Accept: {}\r\n", accept)).body == "id\nn");
  }
  ServiceBench compat(Version::kV1, true);
  CHECK(compat.ask("GET /latest", "Accept: application/json\r\n").body == "id\nn");
}

TEST_CASE("mmds service: version 2 asks for a token") {
  ServiceBench b(Version::kV2);
  CHECK(b.status("GET /latest/id") == 401);
  CHECK(b.metrics.rx_no_token == 1);
  CHECK(b.status("GET /latest/id", "X-metadata-token: wrong\r\n") == 401);
  CHECK(b.metrics.rx_invalid_token == 1);
  const std::string token = b.token(10);
  CHECK(b.ask("GET /latest/id", "X-metadata-token: " + token + "\r\n").body == "i-1");
  CHECK(b.ask("GET /latest/id", "x-aws-ec2-metadata-token: " + token + "\r\n").body == "i-1");
  CHECK(b.status("GET /nothing", "X-metadata-token: " + token + "\r\n") == 404);
  b.now += seconds(10);
  CHECK(b.status("GET /latest/id", "X-metadata-token: " + token + "\r\n") == 401);
  CHECK(b.metrics.rx_invalid_token == 2);
}

TEST_CASE("mmds service: asking for a token") {
  ServiceBench b(Version::kV2);
  const auto ours = b.ask("PUT /latest/api/token", "X-metadata-token-ttl-seconds: 21600\r\n");
  CHECK(ours.status == StatusCode::kOk);
  REQUIRE(ours.headers.size() == 1);
  CHECK(ours.headers[0] == std::pair<std::string_view, std::string>("X-metadata-token-ttl-seconds", "21600"));
  const auto ec2 = b.ask("PUT /latest/api/token", "X-AWS-EC2-Metadata-Token-TTL-Seconds: 1\r\n");
  CHECK(ec2.headers.at(0).first == "X-aws-ec2-metadata-token-ttl-seconds");
  CHECK(b.status("PUT /latest/api/token/", "X-metadata-token-ttl-seconds: 1\r\n") == 200);
  CHECK(b.status("PUT /latest/api/token") == 400);
  for (const char* ttl : {"0", "21601", "-1", "", "x", "1x", "4294967297", "1.5"}) {
    CAPTURE(ttl);
    CHECK(b.status("PUT /latest/api/token", fmt::format("X-metadata-token-ttl-seconds: {}\r\n", ttl)) == 400);
  }
  CHECK(b.status("PUT /latest/api/token",
                 "X-metadata-token-ttl-seconds: 60\r\nx-forwarded-for: 1.2.3.4\r\n") == 400);
  CHECK(b.status("PUT /latest/id", "X-metadata-token-ttl-seconds: 60\r\n") == 404);
}

TEST_CASE("mmds service: other methods") {
  ServiceBench b;
  for (const char* method : {"POST", "PATCH", "DELETE", "HEAD", "OPTIONS", "get"}) {
    const auto response = b.ask(std::string(method) + " /latest/id");
    CHECK(response.status == StatusCode::kMethodNotAllowed);
    REQUIRE(response.headers.size() == 1);
    CHECK(response.headers[0] == std::pair<std::string_view, std::string>("Allow", "GET, PUT"));
  }
}
