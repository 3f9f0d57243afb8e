// The last bytes of a stream.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mayfly::cli {

class Tail {
 public:
  explicit Tail(std::size_t limit) : limit_(limit) {}
  void add(std::string_view bytes);
  // From the start of a line on when something was cut off before it.
  [[nodiscard]] std::string text() const;

 private:
  std::size_t limit_;
  std::string bytes_;
  bool cut_ = false;
};

}  // namespace mayfly::cli
