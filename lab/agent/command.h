// A command in the lab: starting it with its own standard streams, signalling it, ending it.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "protocol.h"

namespace lab {

struct Request {
  StartHeader header{};
  std::string directory;
  std::vector<std::string> arguments;
  std::vector<std::string> environment;

  // False when the message is malformed.
  static bool parse(std::string_view message, Request& request);
};

struct Command {
  pid_t pid = -1;
  // Our ends of the streams, non-blocking; -1 when closed. With a terminal, `in` and `out` are one and the
  // same.
  int in = -1;
  int out = -1;
  int err = -1;
  bool terminal = false;

  // Starts it in control group `group`. When that fails: pid is -1, and status and message say why.
  static Command start(const Request& request, const std::string& group, int& status, std::string& message);

  void close_in();
  void close_out();
  void close_err();
};

// SIGKILL to everything in the control group and in the process group of `pid`.
void kill_everything(const std::string& group, pid_t pid);

}  // namespace lab
