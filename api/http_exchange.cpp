#include "api/http_exchange.h"

#include <httplib.h>

#include <charconv>
#include <optional>
#include <utility>

#include "api/fault.h"

namespace mayfly::api {

namespace {

// What the library reads a request from and writes its response to.
class Bytes final : public httplib::Stream {
 public:
  explicit Bytes(std::string_view in) : in_(in) {}
  [[nodiscard]] std::size_t position() const { return position_; }
  [[nodiscard]] std::string& out() { return out_; }

  [[nodiscard]] bool is_readable() const override { return true; }
  [[nodiscard]] bool is_writable() const override { return true; }
  ssize_t read(char* to, std::size_t size) override {
    const std::size_t n = in_.substr(position_).copy(to, size);
    position_ += n;
    return static_cast<ssize_t>(n);
  }
  ssize_t write(const char* from, std::size_t size) override {
    out_.append(from, size);
    return static_cast<ssize_t>(size);
  }
  void get_remote_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  void get_local_ip_and_port(std::string& /*ip*/, int& /*port*/) const override {}
  // Only asked for to see whether select(2) could take it.
  [[nodiscard]] socket_t socket() const override { return 0; }

 private:
  std::string_view in_;
  std::size_t position_ = 0;
  std::string out_;
};

// The length of a request's body; nothing: it cannot be told (RFC 9112, 6.3).
std::optional<std::size_t> body_length(const httplib::Request& request) {
  const std::size_t count = request.get_header_value_count("Content-Length");
  if (count == 0) return 0;
  const std::string text = request.get_header_value("Content-Length");
  std::size_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (count > 1 || text.empty() || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return length;
}

}  // namespace

// The library's server without its sockets and threads: it parses heads and writes responses. Bodies are
// taken as they are, without the library's decoding of compressed, chunked and multipart ones.
class HttpExchange::Parser final : private httplib::Server {
 public:
  Parser(std::size_t largest_body, HttpServer::Handler handler)
      : largest_body_(largest_body), handler_(std::move(handler)) {
    set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      head_arrived(request, response);
      return HandlerResponse::Handled;
    });
    set_post_routing_handler([](const httplib::Request& /*request*/, httplib::Response& response) {
      response.headers.erase("Keep-Alive");  // the library's own limits, which do not hold here
      if (response.status == 204) response.headers.erase("Content-Length");  // RFC 9110, 8.6
      response.set_header("Server", "Mayfly API");
    });
    // What the library refuses by itself has no content.
    set_error_handler([](const httplib::Request& /*request*/, httplib::Response& response) {
      if (response.body.empty()) {
        response.set_content(fault("this is not an HTTP/1.1 request that can be understood"),
                             "application/json");
      }
    });
  }

  HttpOutcome next(std::string_view bytes, bool invited) {
    Bytes stream(bytes);
    bytes_ = bytes;
    stream_ = &stream;
    outcome_ = {};
    invitation_ = 0;
    bool closing = false;
    head_done_ = false;
    process_request(stream, false, closing, nullptr);
    stream_ = nullptr;
    std::string& out = stream.out();
    if (!head_done_) {
      outcome_ = {.used = bytes.size(), .needed = 0, .reply = std::move(out), .last = true};
    } else if (outcome_.used == 0) {
      outcome_.reply = invited ? "" : out.substr(0, invitation_);
    } else {
      outcome_.reply = invited ? out.substr(invitation_) : std::move(out);
      outcome_.last = outcome_.last || closing;
    }
    return std::exchange(outcome_, {});
  }

 private:
  void refuse(httplib::Response& response, int status, std::string_view why) {
    response.status = status;
    response.set_header("Connection", "close");
    response.set_content(fault(why), "application/json");
    outcome_.used = bytes_.size();
    outcome_.last = true;
  }

  // The library calls this when it has read the head.
  void head_arrived(const httplib::Request& request, httplib::Response& response) {
    head_done_ = true;
    invitation_ = stream_->out().size();
    const std::size_t head = stream_->position();
    response.status = 200;
    if (request.has_header("Transfer-Encoding")) {
      return refuse(response, 400, "Transfer-Encoding: send the body as it is, with a Content-Length");
    }
    const auto length = body_length(request);
    if (!length) return refuse(response, 400, "Content-Length: not one number");
    if (*length > largest_body_) {
      return refuse(
          response, 413,
          fmt::format("the request's body has {} bytes, and the limit is {} (--http-api-max-payload-size)",
                      *length, largest_body_));
    }
    outcome_.needed = head + *length;
    if (bytes_.size() < outcome_.needed) return;
    outcome_.used = outcome_.needed;
    HttpResponse answer =
        handler_({.method = request.method, .path = request.path, .body = bytes_.substr(head, *length)});
    response.status = answer.status;
    if (!answer.content.empty()) response.set_content(std::move(answer.content), answer.type.c_str());
  }

  std::size_t largest_body_;
  HttpServer::Handler handler_;
  // Of the request that next() is at.
  std::string_view bytes_;
  Bytes* stream_ = nullptr;
  HttpOutcome outcome_;
  std::size_t invitation_ = 0;  // bytes of the reply that come before the response
  bool head_done_ = false;
};

HttpExchange::HttpExchange(std::size_t largest_body, HttpServer::Handler handler)
    : parser_(std::make_unique<Parser>(largest_body, std::move(handler))) {}

HttpExchange::~HttpExchange() = default;

HttpOutcome HttpExchange::next(std::string_view bytes, bool invited) {
  // A head that is not all there is not looked at, so that it is parsed once however slowly it comes.
  if (bytes.substr(0, HttpServer::kLargestHead).find("\r\n\r\n") != std::string_view::npos) {
    return parser_->next(bytes, invited);
  }
  if (bytes.size() < HttpServer::kLargestHead) return {};
  const std::string content =
      fault(fmt::format("a request's line and headers may have {} bytes", HttpServer::kLargestHead));
  return {.used = bytes.size(),
          .needed = 0,
          .reply = fmt::format("HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
                               "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
                               content.size(), content),
          .last = true};
}

}  // namespace mayfly::api
