#include "cli/tail.h"

namespace mayfly::cli {

void Tail::add(std::string_view bytes) {
  if (bytes.size() > limit_) {
    bytes.remove_prefix(bytes.size() - limit_);
    cut_ = true;
  }
  bytes_.append(bytes);
  if (bytes_.size() > limit_) {
    bytes_.erase(0, bytes_.size() - limit_);
    cut_ = true;
  }
}

std::string Tail::text() const {
  if (!cut_) return bytes_;
  const std::size_t line = bytes_.find('\n');
  return line == std::string::npos ? bytes_ : bytes_.substr(line + 1);
}

}  // namespace mayfly::cli
