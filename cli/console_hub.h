// The serial console of a detached machine, for those who look at it and type.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <string_view>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "cli/listener.h"
#include "cli/pump.h"
#include "cli/tail.h"

namespace mayfly::cli {

// A unix socket "console" in the machine's folder. Whoever connects gets the last lines and all that follows;
// what any of them sends is typed. One who does not read loses the connection. Lives on the loop's thread.
class ConsoleHub {
 public:
  static constexpr std::size_t kMostClients = 16;
  static constexpr std::size_t kMostHeld = 256U << 10U;  // bytes for one who reads slowly

  // `input`: where what is typed goes, not blocking.
  static base::Result<std::unique_ptr<ConsoleHub>> create(base::EventLoop& loop, const std::string& folder,
                                                          base::UniqueFd input);
  ~ConsoleHub();
  ConsoleHub(const ConsoleHub&) = delete;
  ConsoleHub& operator=(const ConsoleHub&) = delete;

  // What the guest wrote.
  void show(std::string_view text);

 private:
  struct Client {
    base::UniqueFd fd;
    std::string held;
    std::unique_ptr<Pump> input;
  };
  using Place = std::list<Client>::iterator;
  ConsoleHub(base::EventLoop& loop, base::UniqueFd input) : loop_(loop), input_(std::move(input)) {}
  void add(base::UniqueFd fd);
  base::Status take_input(Client& client);
  // False when it is gone.
  bool send(Client& client);
  void remove(Place client);

  base::EventLoop& loop_;
  base::UniqueFd input_;
  Tail tail_{16U << 10U};
  std::unique_ptr<Listener> listener_;
  std::list<Client> clients_;
};

}  // namespace mayfly::cli
