// Who has which of the guests' networks on this host: `mayfly run` as root, any number at once.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace mayfly::cli {

// A file for each network namespace, /run/mayfly/network-NUMBER, there while anybody is in it. Its bytes are
// not what counts but the locks on them: a run holds one on the byte of its slot. Locks belong to the open
// file, which mayfly shares with its keeper, so that one ends when both processes are gone, and not before.
// The file's text lists interfaces that forward packets only because of us, one a line.
class NetworkRegistry {
 public:
  // Opens the file in `folder`, which is made (mode 0700) where it is missing.
  static base::Result<NetworkRegistry> open(const std::string& folder = "/run/mayfly");
  // One that another process opened and handed on.
  explicit NetworkRegistry(base::UniqueFd fd) : fd_(std::move(fd)) {}

  // While it lives no other run takes or leaves a slot. Waits for that. Not held across anything slow.
  class Turn {
   public:
    ~Turn();
    Turn(Turn&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    friend class NetworkRegistry;
    explicit Turn(int fd) : fd_(fd) {}
    int fd_;
  };
  base::Result<Turn> turn();

  // These need a turn.
  // Takes a slot that nobody has; false when somebody has it.
  [[nodiscard]] bool take(unsigned slot);
  void leave(unsigned slot);
  // Whether any run but ours has one.
  [[nodiscard]] bool others() const;
  [[nodiscard]] std::vector<std::string> forwarding() const;
  base::Status set_forwarding(const std::vector<std::string>& interfaces);
  // For the last one out: nobody finds the file any more.
  void remove_file() const;

  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  NetworkRegistry(base::UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  base::UniqueFd fd_;
  std::string path_;  // empty: it was handed on
};

}  // namespace mayfly::cli
