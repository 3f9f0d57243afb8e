// Where the guest's connections to one of the host's ports arrive.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

// A listening unix socket. Lives on the loop's thread.
class Listener {
 public:
  // Binds `path`, which must fit into a socket's address. `on_connection` may destroy the listener.
  static base::Result<std::unique_ptr<Listener>> create(base::EventLoop& loop, const std::string& path,
                                                        std::function<void(base::UniqueFd)> on_connection);
  // Removes the path.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

 private:
  Listener(base::EventLoop& loop, base::UniqueFd fd, std::string path)
      : loop_(loop), fd_(std::move(fd)), path_(std::move(path)) {}
  base::EventLoop& loop_;
  base::UniqueFd fd_;
  std::string path_;
};

}  // namespace mayfly::cli
