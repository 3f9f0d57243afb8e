// What other mayflys ask of the one that keeps a machine: lines on a unix socket in the machine's folder.
//
//   wait\n            nothing but the answer
//   stop MILLISECONDS\n    SIGTERM to the command; after that time, power off
//   kill\n            end at once
//
// The one answer comes when the machine has ended: "ended STATUS\n", or "failed REASON\n". A connection that
// closes without it was to a mayfly that was killed.
#pragma once

#include <cerrno>
#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/listener.h"
#include "cli/machine_registry.h"

namespace mayfly::cli {

// Lives on the loop's thread.
class ControlServer {
 public:
  static constexpr std::size_t kMostClients = 128;
  struct Handlers {
    std::function<void(std::chrono::milliseconds grace)> on_stop;
    std::function<void()> on_kill;
  };
  static base::Result<std::unique_ptr<ControlServer>> create(base::EventLoop& loop, const std::string& folder,
                                                             Handlers handlers);
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // Answers everybody.
  void tell_end(const base::Result<int>& result);

 private:
  struct Client {
    base::UniqueFd fd;
    std::string line;
  };
  ControlServer(base::EventLoop& loop, Handlers handlers) : loop_(loop), handlers_(std::move(handlers)) {}
  void add(base::UniqueFd fd);
  void serve(std::list<Client>::iterator client);
  bool obey(const std::string& line);

  base::EventLoop& loop_;
  Handlers handlers_;
  std::unique_ptr<Listener> listener_;
  std::list<Client> clients_;
};

// The other side.
class ControlClient {
 public:
  // Sends `request`, without its newline. A machine that is just coming up is waited for; one that is on its
  // way out has nobody who answers, and wait() returns at once.
  static base::Result<ControlClient> ask(const FoundMachine& machine, const std::string& request);
  // Readable when the machine ended.
  [[nodiscard]] int fd() const { return fd_.get(); }
  // The code of wait()'s error when there was no answer: who asked came too late, or who keeps the machine
  // was killed.
  static constexpr int kNobodyKnows = ENOTCONN;
  // Until the machine ended. Its command's status, or an error that says why there is none.
  base::Result<int> wait();

 private:
  ControlClient(base::UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  base::UniqueFd fd_;
  std::string name_;
};

// A connection to a unix socket; blocking. The error's code is connect(2)'s.
base::Result<base::UniqueFd> connect_to(const std::string& path);

}  // namespace mayfly::cli
