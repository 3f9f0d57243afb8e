// mayfly-vmm as a child process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/byte_end.h"
#include "cli/pump.h"
#include "cli/tail.h"

namespace mayfly::cli {

// How it ended.
struct VmmEnd {
  int exit_status = 0;  // of the process, when no signal killed it
  int signal = 0;
};

// Dies with mayfly. Lives on the loop's thread.
class VmmProcess {
 public:
  // One that the VMM knows as path_of(its index), because it cannot open it itself.
  struct File {
    base::UniqueFd fd;
    std::string name;  // for people
  };
  static constexpr std::size_t kMostFiles = 4;
  static std::string path_of(std::size_t index);

  struct Request {
    std::string executable;
    std::string configuration;             // JSON
    std::vector<std::string> jailer = {};  // mayfly-jailer and its options; empty: no jail
    std::vector<File> files = {};
    std::string kvm = {};  // path; empty: /dev/kvm
    bool timing = false;
    std::string api_socket = {};  // empty: it serves none
    std::string id = {};          // with api_socket
  };
  // The guest's serial port.
  struct Console {
    ByteEnd output;
    base::UniqueFd input = {};  // what the VMM reads; invalid: nothing
  };
  struct Observer {
    // A moment of the start, CLOCK_MONOTONIC; only with Request::timing.
    std::function<void(std::string_view phase, std::uint64_t ns)> on_phase = nullptr;
    // What the guest wrote to its console, before it is written to ours.
    std::function<void(std::string_view)> on_console = nullptr;
    // Once, when it ended and all that it wrote was read.
    std::function<void(const VmmEnd&)> on_end;
  };

  // `loop` outlives the process.
  // The files are closed here when it returns.
  static base::Result<std::unique_ptr<VmmProcess>> spawn(base::EventLoop& loop, Request request,
                                                         Console console, Observer observer);
  // Kills and reaps it.
  ~VmmProcess();
  VmmProcess(const VmmProcess&) = delete;
  VmmProcess& operator=(const VmmProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }  // -1 once it ended
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }
  void kill();
  [[nodiscard]] const Tail& console() const { return console_; }
  // What it said, with the names of files in the place of descriptors.
  [[nodiscard]] std::string errors() const;

 private:
  VmmProcess(base::EventLoop& loop, Observer observer) : loop_(loop), observer_(std::move(observer)) {}
  base::Status watch(base::UniqueFd& fd, std::function<void(std::string_view)> on_bytes);
  void take_timing(std::string_view bytes);
  void take_timing_line(std::string_view line) const;
  void reap();
  void one_ended();

  base::EventLoop& loop_;
  Observer observer_;
  pid_t pid_ = -1;  // until reaped
  base::UniqueFd pidfd_;
  base::UniqueFd error_pipe_;
  base::UniqueFd timing_pipe_;
  std::unique_ptr<Pump> console_pump_;
  Tail console_{16U << 10U};
  Tail errors_{4U << 10U};
  std::vector<std::string> file_names_;
  std::string timing_line_;
  VmmEnd end_;
  int open_ = 0;  // the process and its pipes
};

}  // namespace mayfly::cli
