// Frames over a virtio-serial port.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "protocol.h"

namespace lab {

struct Received {
  Frame type;
  std::string payload;
};

class Port {
 public:
  // Opens port `number` (from 1), waiting for the driver to make its node. SIGIO must be blocked.
  explicit Port(int number);
  ~Port();
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  [[nodiscard]] int fd() const { return fd_; }

  // Sleeps until something has happened on the port since the last call, or a second has passed.
  void wait_while_idle() const;

  // Reads what is there; never blocks.
  void fill();
  // Takes the next whole frame out of what was read.
  bool next(Received& frame);

  // Queues a frame; flush() or a later one sends it.
  void send(Frame type, std::string_view payload);
  // Writes what the port takes now; never blocks.
  void flush();
  [[nodiscard]] std::size_t unsent() const { return out_.size() - out_done_; }
  // Forgets what was queued for a lab/run that is gone.
  void discard_unsent();

 private:
  int fd_ = -1;
  std::string in_;
  std::size_t in_done_ = 0;
  std::string out_;
  std::size_t out_done_ = 0;
};

}  // namespace lab
