#include "cli/machine_log.h"

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;

namespace {

constexpr LogPlace kSmall = {"small", 1000};

struct Log {
  test::TemporaryFolder folder;
  LogWriter writer = make();

  LogWriter make() const {
    auto created = LogWriter::create(folder.path(""), kSmall);
    REQUIRE(created.has_value());
    return std::move(*created);
  }
  LogReader reader() const {
    auto opened = LogReader::open(folder.path(""), kSmall);
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  std::uintmax_t size() const {
    std::uintmax_t sum = 0;
    for (const auto& each : std::filesystem::directory_iterator(folder.path(""))) sum += each.file_size();
    return sum;
  }
};

std::string read_all(LogReader& reader) {
  std::string all;
  while (const auto entry = reader.next()) all += entry->bytes;
  return all;
}

}  // namespace

TEST_CASE("a log has what was written, in order and by stream") {
  Log log;
  LogReader reader = log.reader();
  CHECK(!reader.next().has_value());
  log.writer.add(LogStream::kOutput, "out");
  log.writer.add(LogStream::kErrors, "err");
  log.writer.add(LogStream::kOutput, "");
  auto entry = reader.next();
  REQUIRE(entry.has_value());
  CHECK(entry->stream == LogStream::kOutput);
  CHECK(entry->bytes == "out");
  entry = reader.next();
  REQUIRE(entry.has_value());
  CHECK(entry->stream == LogStream::kErrors);
  CHECK(!reader.next().has_value());
  log.writer.add(LogStream::kNotice, "more");
  CHECK(read_all(reader) == "more");
}

TEST_CASE("a reader that keeps up misses nothing, and the log stays small") {
  Log log;
  LogReader reader = log.reader();
  std::string written;
  std::string read;
  for (int i = 0; i < 500; ++i) {
    const std::string line = fmt::format("line {}\n", i);
    written += line;
    log.writer.add(LogStream::kOutput, line);
    if (i % 7 == 0) read += read_all(reader);
    CHECK(log.size() < 2 * kSmall.segment + 100);
  }
  CHECK(read + read_all(reader) == written);
}

TEST_CASE("who comes late reads the end of it, from the start of a record") {
  Log log;
  std::string written;
  for (int i = 0; i < 500; ++i) {
    written += fmt::format("line {}\n", i);
    log.writer.add(LogStream::kOutput, fmt::format("line {}\n", i));
  }
  LogReader reader = log.reader();
  const std::string read = read_all(reader);
  CHECK(read.starts_with("line "));
  CHECK(written.ends_with(read));
  CHECK(read.size() > 300);
}

TEST_CASE("bytes longer than a record are several") {
  Log log;
  const std::string text(2 * kLongestLogRecord + 5, 'x');
  LogReader reader = log.reader();
  log.writer.add(LogStream::kOutput, text);
  CHECK(read_all(reader).size() >= kLongestLogRecord + 5);
}

TEST_CASE("a file that is no log is read as nothing") {
  const test::TemporaryFolder folder;
  std::ofstream(folder.path("small.3")) << std::string(100, '\xff');
  auto reader = LogReader::open(folder.path(""), kSmall);
  REQUIRE(reader.has_value());
  CHECK(!reader->next().has_value());
}
