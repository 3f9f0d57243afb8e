#include "api/metrics_file.h"

#include <unistd.h>

#include "base/file.h"

namespace mayfly::api {

base::Result<MetricsFile> MetricsFile::open(const std::string& path) {
  base::UniqueFd fd = TRY(base::open_to_append(path));
  return MetricsFile(std::move(fd));
}

// The descriptor does not block: a full FIFO takes a part, or nothing.
void MetricsFile::write_pending() {
  const ssize_t n = ::write(fd_.get(), pending_.data(), pending_.size());
  if (n > 0) pending_.erase(0, static_cast<std::size_t>(n));
}

void MetricsFile::write(std::string_view line) {
  if (!pending_.empty()) write_pending();
  if (!pending_.empty()) {
    ++lost_;
    return;
  }
  pending_.assign(line);
  pending_ += '\n';
  const std::size_t size = pending_.size();
  write_pending();
  if (pending_.size() < size) return;
  pending_.clear();
  ++lost_;
}

}  // namespace mayfly::api
