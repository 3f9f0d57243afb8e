#include "cli/machine_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "base/file.h"

namespace mayfly::cli {

using base::Result;
using base::Status;
using base::UniqueFd;

namespace {

std::uint64_t now_ns() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::nanoseconds(since).count());
}

}  // namespace

// ---- Writing ----

Result<LogWriter> LogWriter::create(const std::string& folder, LogPlace place) {
  LogWriter writer(folder, place);
  TRY(writer.begin(0));
  return writer;
}

std::string LogWriter::path(std::uint64_t number) const {
  return fmt::format("{}/{}.{}", folder_, place_.name, number);
}

Status LogWriter::begin(std::uint64_t number) {
  file_ = TRY(base::open_file(path(number), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND));
  number_ = number;
  size_ = 0;
  if (number >= 2) ::unlink(path(number - 2).c_str());
  return {};
}

void LogWriter::add(LogStream stream, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto part = bytes.first(std::min(bytes.size(), kLongestLogRecord));
    bytes = bytes.subspan(part.size());
    // Without a next file, the one there is goes on to be used no further than this.
    if (size_ >= place_.segment && !begin(number_ + 1)) return;
    LogRecord record{.time_ns = now_ns(),
                     .stream = static_cast<std::uint32_t>(stream),
                     .length = static_cast<std::uint32_t>(part.size())};
    std::array<iovec, 2> parts = {
        {{.iov_base = &record, .iov_len = sizeof(record)},
         {.iov_base = const_cast<std::byte*>(part.data()), .iov_len = part.size()}}};
    const ssize_t written = ::writev(file_.get(), parts.data(), parts.size());
    const auto whole = sizeof(record) + part.size();
    if (written == static_cast<ssize_t>(whole)) {
      size_ += whole;
    } else if (written > 0) {
      // A reader must not find half a record.
      [[maybe_unused]] const int cut = ::ftruncate(file_.get(), static_cast<off_t>(size_));
    }
  }
}

void LogWriter::add(LogStream stream, std::string_view text) {
  add(stream, std::as_bytes(std::span(text)));
}

// ---- Reading ----

Result<LogReader> LogReader::open(const std::string& folder, LogPlace place) {
  return LogReader(TRY(base::open_file(folder, O_PATH | O_DIRECTORY)), place);
}

UniqueFd LogReader::open_segment(std::uint64_t number) const {
  const std::string name = fmt::format("{}.{}", place_.name, number);
  return UniqueFd(::openat(folder_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
}

// To the next file that is there; false when there is none.
bool LogReader::go_on() {
  const std::uint64_t wanted = begun_ ? number_ + 1 : 0;
  std::optional<std::uint64_t> oldest;
  std::error_code error;
  const std::string prefix = std::string(place_.name) + ".";
  for (auto it = std::filesystem::directory_iterator(fmt::format("/proc/self/fd/{}", folder_.get()), error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename();
    if (!name.starts_with(prefix)) continue;
    const std::uint64_t number = std::strtoull(name.c_str() + prefix.size(), nullptr, 10);
    if (number >= wanted) oldest = std::min(oldest.value_or(number), number);
  }
  if (!oldest) return false;
  UniqueFd file = open_segment(*oldest);
  if (!file.valid()) return false;
  file_ = std::move(file);
  number_ = *oldest;
  offset_ = 0;
  begun_ = true;
  return true;
}

std::optional<LogEntry> LogReader::next() {
  for (;;) {
    if (!begun_ && !go_on()) return std::nullopt;
    LogRecord record;
    const ssize_t n = ::pread(file_.get(), &record, sizeof(record), static_cast<off_t>(offset_));
    if (n == sizeof(record) && record.length <= kLongestLogRecord) {
      LogEntry entry{.stream = static_cast<LogStream>(std::uint32_t{record.stream}),
                     .bytes = std::string(record.length, '\0')};
      const ssize_t rest = ::pread(file_.get(), entry.bytes.data(), entry.bytes.size(),
                                   static_cast<off_t>(offset_ + sizeof(record)));
      // The writer is in the middle of it.
      if (rest != static_cast<ssize_t>(entry.bytes.size())) return std::nullopt;
      offset_ += sizeof(record) + entry.bytes.size();
      return entry;
    }
    // A file with another one after it is complete.
    struct stat before {};
    if (::fstat(file_.get(), &before) != 0) return std::nullopt;
    const bool at_end = static_cast<std::uint64_t>(before.st_size) <= offset_;
    if (!at_end || !go_on()) return std::nullopt;
  }
}

}  // namespace mayfly::cli
