// One slot's life: take a command, pass its streams, report its end, take the next.
#pragma once

#include <string>

#include "command.h"
#include "port.h"

namespace lab {

class Session {
 public:
  // SIGCHLD and SIGIO are blocked already: they are waited for, and SIGIO would kill.
  explicit Session(int slot);
  [[noreturn]] void run();

 private:
  void wait_for_events();
  void handle(const Received& frame);
  void start(std::string_view message);
  void give_credit(int stream, std::size_t bytes);
  void write_stdin();
  void read_stream(int& fd, Frame type, int stream);
  void reap();
  void finish_if_done();
  void abandon();

  Port port_;
  std::string group_;
  int child_signals_ = -1;
  Command command_;
  bool active_ = false;     // a hello has come, and its command has not been reported ended
  bool connected_ = false;  // since the hello, the port has been seen connected
  int hang_ups_ = 0;
  bool exited_ = false;
  int status_ = 0;
  int quiet_rounds_ = 0;
  std::string start_message_;
  std::string stdin_;
  bool stdin_ended_ = false;
  std::size_t credit_[3] = {};
};

}  // namespace lab
