// A guest's TCP and a network between it and the metadata service, both in a time of their own.
#pragma once

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "mmds/responder.h"
#include "tests/support/guest_frames.h"

namespace mayfly::test {

using mmds::Time;
using std::chrono::microseconds;
using std::chrono::milliseconds;

inline std::shared_ptr<mmds::Service> make_service(std::string_view document,
                                                   mmds::Version version = mmds::Version::kV1,
                                                   std::size_t limit = mmds::kDefaultSizeLimit) {
  auto store = std::make_shared<mmds::Store>(limit);
  REQUIRE(store->put(document));
  return mmds::Service::create({.network_interfaces = {}, .version = version}, std::move(store)).value();
}

// Whether a comes before b, as sequence numbers do.
inline bool earlier(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::int32_t>(a - b) < 0;
}

// One connection of the guest's: sends again what is not acknowledged, puts together what arrives in any
// order.
class Client {
 public:
  struct Options {
    std::uint16_t port = 40000;
    std::uint32_t sequence = 1000;
    std::size_t segment = 1460;  // what it sends at once
    std::uint16_t mss = 1460;    // what it says it takes
    std::uint32_t window = 65535;
    bool finish = false;  // after what it has to send
  };
  Client(const Options& options, std::string request)
      : options_(options), output_(std::move(request)), una_(options.sequence) {}

  std::vector<Frame> poll(Time now) {
    std::vector<Frame> frames;
    if (reset || now < next_try_) return flush_ack(frames);
    next_try_ = now + wait_;
    if (tries_++ > 0) wait_ = std::min(wait_ * 2, milliseconds(3000));
    if (!established_) {
      frames.push_back(
          tcp_frame({.from_port = options_.port, .seq = una_, .flags = kTcpSyn, .mss = options_.mss}));
      return frames;
    }
    for (std::size_t at = 0; at < output_.size(); at += options_.segment) {
      frames.push_back(
          segment(una_ + static_cast<std::uint32_t>(at), output_.substr(at, options_.segment), false));
      if (at > 12000) break;
    }
    if (output_.empty() && fin_left()) frames.push_back(segment(una_, "", true));
    return flush_ack(frames);
  }

  void receive(const Tcp& tcp) {
    if (reset || tcp.to_port != options_.port) return;
    if ((tcp.flags & kTcpRst) != 0) {
      reset = true;
      return;
    }
    if ((tcp.flags & kTcpSyn) != 0) {
      if (!established_ && tcp.ack == una_ + 1) {
        established_ = true;
        sent_ = ++una_;
        next_ = tcp.seq + 1;
        again();
      }
      ack_due_ = true;
      return;
    }
    if (!established_) return;
    take_acknowledgment(tcp.ack);
    take_data(tcp);
  }

  // Sends more.
  void send(std::string_view text) {
    output_ += text;
    again();
  }
  void finish() {
    options_.finish = true;
    again();
  }
  void open_window(std::uint32_t window) {
    options_.window = window;
    ack_due_ = true;
  }
  [[nodiscard]] bool finished() const { return ended && output_.empty() && !fin_left(); }
  [[nodiscard]] bool idle() const { return output_.empty(); }
  [[nodiscard]] bool established() const { return established_; }
  [[nodiscard]] Time next_try() const {
    return output_.empty() && established_ && !fin_left() ? Time::max() : next_try_;
  }
  [[nodiscard]] std::uint16_t port() const { return options_.port; }

  std::string received;
  bool ended = false;  // the service's FIN
  bool reset = false;

 private:
  [[nodiscard]] bool fin_left() const { return options_.finish && !fin_acknowledged_; }
  Frame segment(std::uint32_t seq, std::string payload, bool fin) {
    sent_ = std::max(sent_, seq + static_cast<std::uint32_t>(payload.size()) + (fin ? 1U : 0U), earlier);
    const auto flags = static_cast<std::uint8_t>(kTcpAck | (fin ? kTcpFin : 0));
    return tcp_frame({.from_port = options_.port,
                      .seq = seq,
                      .ack = next_,
                      .flags = flags,
                      .window = static_cast<std::uint16_t>(options_.window),
                      .payload = std::move(payload)});
  }
  std::vector<Frame>& flush_ack(std::vector<Frame>& frames) {
    if (std::exchange(ack_due_, false) && frames.empty() && !reset)
      frames.push_back(segment(sent_, "", false));
    return frames;
  }
  void again() {
    next_try_ = {};
    wait_ = milliseconds(300);
    tries_ = 0;
  }
  void take_acknowledgment(std::uint32_t ack) {
    const std::uint32_t n = ack - una_;
    if (earlier(ack, una_) || n > output_.size() + (fin_left() ? 1 : 0) || n == 0) return;
    if (n > output_.size()) fin_acknowledged_ = true;
    output_.erase(0, n);
    una_ = ack;
    sent_ = std::max(sent_, una_, earlier);
    wait_ = milliseconds(300);
    if (output_.empty() && fin_left()) again();
  }
  void take_data(const Tcp& tcp) {
    const bool fin = (tcp.flags & kTcpFin) != 0;
    if (tcp.payload.empty() && !fin) return;
    ack_due_ = true;
    if (options_.window == 0 && !tcp.payload.empty()) return;
    pieces_[tcp.seq] = {tcp.payload, fin};
    for (bool more = true; more;) {
      more = false;
      for (const auto& [seq, piece] : pieces_) {
        if (earlier(next_, seq) || ended) continue;
        const std::uint32_t known = next_ - seq;
        if (known < piece.first.size()) {
          received += piece.first.substr(known);
          next_ += static_cast<std::uint32_t>(piece.first.size() - known);
          more = true;
        }
        if (piece.second && next_ == seq + piece.first.size()) {
          ended = true;
          ++next_;
        }
      }
    }
  }

  Options options_;
  std::string output_;
  std::uint32_t una_;
  std::uint32_t sent_ = 0;
  std::uint32_t next_ = 0;
  bool established_ = false;
  bool ack_due_ = false;
  bool fin_acknowledged_ = false;
  Time next_try_{};
  milliseconds wait_{300};
  unsigned tries_ = 0;
  std::map<std::uint32_t, std::pair<std::string, bool>> pieces_;
};

// What the network does to frames, both ways, in percent.
struct Weather {
  unsigned lost = 0;
  unsigned doubled = 0;
  unsigned delayed = 0;
};

class Network {
 public:
  explicit Network(std::shared_ptr<mmds::Service> service, const Weather& weather = {}, unsigned seed = 1)
      : responder(mmds::Responder::create(std::move(service)).value()), weather_(weather), random_(seed) {}

  Client& add(const Client::Options& options, std::string request) {
    clients.push_back(std::make_unique<Client>(options, std::move(request)));
    return *clients.back();
  }

  // Until `done`; false when it is not after `limit` of its own time.
  template <typename Done>
  bool run(Done done, Time::duration limit = std::chrono::minutes(10)) {
    const Time end = now + limit;
    while (!done()) {
      if (now >= end) return false;
      step(end);
    }
    return true;
  }
  void pass(Time::duration time) {
    run([] { return false; }, time);
  }
  // To the service, at once and surely; and what it says.
  std::vector<Tcp> tell(const Tcp& tcp) {
    responder->receive(tcp_frame(tcp), false, now);
    return heard();
  }
  std::vector<Tcp> heard() {
    std::vector<Tcp> all;
    while (responder->wants_to_send()) {
      const auto tcp = read_tcp(pull());
      REQUIRE(tcp);
      all.push_back(*tcp);
    }
    return all;
  }
  Frame pull() {
    Frame frame(mmds::kLargestReply);
    frame.resize(responder->next(frame, now));
    return frame;
  }

  Time now = Time(std::chrono::hours(1));
  std::unique_ptr<mmds::Responder> responder;
  std::vector<std::unique_ptr<Client>> clients;
  bool guest_has_buffers = true;

 private:
  struct Flying {
    bool to_service;
    Frame frame;
  };
  unsigned percent() { return std::uniform_int_distribution<unsigned>(0, 99)(random_); }
  void launch(bool to_service, const Frame& frame) {
    const unsigned copies = percent() < weather_.doubled ? 2 : 1;
    for (unsigned i = 0; i < copies; ++i) {
      if (percent() < weather_.lost) continue;
      Time::duration delay = microseconds(50);
      if (percent() < weather_.delayed) delay += microseconds(percent() * 100);
      air_.emplace(now + delay, Flying{to_service, frame});
    }
  }
  void step(Time end) {
    for (const auto& client : clients) {
      for (const Frame& frame : client->poll(now)) launch(true, frame);
    }
    while (guest_has_buffers && responder->wants_to_send()) launch(false, pull());
    Time next = std::min(end, responder->deadline().value_or(Time::max()));
    if (!air_.empty()) next = std::min(next, air_.begin()->first);
    for (const auto& client : clients) {
      if (!client->reset) next = std::min(next, client->next_try());
    }
    now = std::max(now, next);
    responder->tick(now);
    while (!air_.empty() && air_.begin()->first <= now) {
      const Flying flying = std::move(air_.begin()->second);
      air_.erase(air_.begin());
      deliver(flying);
    }
  }
  void deliver(const Flying& flying) {
    if (flying.to_service) {
      responder->receive(flying.frame, false, now);
      return;
    }
    const auto tcp = read_tcp(flying.frame);
    REQUIRE(tcp);
    for (const auto& client : clients) client->receive(*tcp);
  }

  Weather weather_;
  std::mt19937 random_;
  std::multimap<Time, Flying> air_;
};

// The content of the one response that `bytes` is; fails when it is not whole.
inline std::string body_of(std::string_view bytes) {
  const std::size_t end = bytes.find("\r\n\r\n");
  REQUIRE(end != std::string_view::npos);
  return std::string(bytes.substr(end + 4));
}
inline bool has_status(std::string_view bytes, int status) {
  return bytes.starts_with(fmt::format("HTTP/1.1 {} ", status));
}
inline std::string get(std::string_view path, std::string_view headers = "Connection: close\r\n") {
  return fmt::format("GET {} HTTP/1.1\r\nHost: 169.254.169.254\r\n{}\r\n", path, headers);
}
inline std::string long_text(std::size_t size) {
  std::string text(size, ' ');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23 + i / 997 % 3);
  return text;
}
inline std::string document(std::size_t size = 100) {
  return R"({"a": {"b": "text"}, "large": ")" + long_text(size) + "\"}";
}

}  // namespace mayfly::test
