// Sentences without a formatting library: init is read from disk at every boot.
#pragma once

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string_view>

namespace mayfly::init {

// Puts the parts one after another and a NUL behind them; what does not fit is cut off.
inline void join_text(std::span<char> out, std::initializer_list<std::string_view> parts) {
  std::size_t length = 0;
  for (const std::string_view part : parts) {
    const std::size_t count = std::min(part.size(), out.size() - 1 - length);
    if (count > 0) std::memcpy(out.data() + length, part.data(), count);
    length += count;
  }
  out[length] = '\0';
}

}  // namespace mayfly::init
