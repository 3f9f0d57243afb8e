// Waiting for what must come.
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace mayfly::test {

inline constexpr std::chrono::seconds kDeadline{120};  // only a hang gets there

// Until it holds; false when it never does.
inline bool eventually(const std::function<bool()>& holds) {
  const auto end = std::chrono::steady_clock::now() + kDeadline;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace mayfly::test
