// What a client of the control socket may send: bytes on a connection, in pieces, up to the task that they
// ask for; and configuration files.
#include <nlohmann/json.hpp>

#include "api/config_json.h"
#include "api/fault.h"
#include "api/http_exchange.h"
#include "api/router.h"
#include "base/json.h"
#include "tests/fuzz/input.h"

using namespace mayfly;
using fuzz::require;

namespace {

constexpr std::size_t kLargestBody = 4096;

api::HttpResponse respond(const api::HttpRequest& request) {
  require(request.body.size() <= kLargestBody);
  const auto task = api::route(request.method, request.path, request.body);
  if (task) return {.status = 204};
  require(!task.error().message.empty());
  return {.status = 400, .content = api::fault(task.error().message)};
}

// The connection's bytes, `step` more each time.
void serve(std::string_view bytes, std::size_t step) {
  api::HttpExchange exchange(kLargestBody, respond);
  std::string in;
  bool invited = false;
  while (!bytes.empty()) {
    in += bytes.substr(0, step);
    bytes.remove_prefix(std::min(step, bytes.size()));
    for (;;) {
      const api::HttpOutcome outcome = exchange.next(in, invited);
      require(outcome.used <= in.size());
      if (outcome.used == 0) {
        // What is kept is bounded: a head, or a head and a body.
        require(in.size() < api::HttpServer::kLargestHead + kLargestBody + step);
        require(outcome.needed == 0 || outcome.needed > in.size());
        invited = invited || !outcome.reply.empty();
        break;
      }
      require(outcome.reply.starts_with("HTTP/1.1 "));
      if (outcome.last) return;
      in.erase(0, outcome.used);
      invited = false;
    }
  }
}

// What is accepted is shown in a form that is accepted, and shown the same.
void configure(std::string_view text) {
  const auto configuration = api::parse_configuration(text);
  if (!configuration) return require(!configuration.error().message.empty());
  const nlohmann::json shown = api::to_json(*configuration);
  const auto again = api::parse_configuration(base::to_text(shown));
  require(again.has_value());
  require(api::to_json(*again) == shown);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] == 'c') {
    configure(bytes);
  } else {
    serve(bytes, data[0] == '0' ? size : data[0] + 1U);
  }
  return 0;
}
