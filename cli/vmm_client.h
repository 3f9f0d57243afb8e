// What mayfly asks of a mayfly-vmm by its control socket.
#pragma once

#include <chrono>
#include <string>

#include "base/result.h"

namespace mayfly::cli {

// Each call is a connection of its own and waits for the answer, `patience` long at most. Errors are the
// VMM's words, or why there are none. Answers are bounded.
class VmmClient {
 public:
  static constexpr std::chrono::seconds kPatience{10};
  explicit VmmClient(std::string socket, std::chrono::milliseconds patience = kPatience)
      : socket_(std::move(socket)), patience_(patience) {}

  [[nodiscard]] base::Result<std::string> get(const std::string& path) const;
  [[nodiscard]] base::Status patch(const std::string& path, const std::string& body) const;

 private:
  std::string socket_;
  std::chrono::milliseconds patience_;
};

}  // namespace mayfly::cli
