#include "api/metrics.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using api::MetricsFile;
using api::MetricsLine;
using nlohmann::json;
using std::chrono::milliseconds;

TEST_CASE("a line has what was counted since the last one, by device and by kind") {
  MetricsLine line({{"id", "vm7"}, {"zone", "\xff"}});
  std::vector<base::MetricGroup> groups = {{"block_root", {{"read_count", 5}, {"flush_count", 0}}},
                                           {"block_data_2", {{"read_count", 2}, {"flush_count", 1}}},
                                           {"vsock", {{"rx_bytes_count", 10}}}};
  json first = json::parse(line.next(groups, milliseconds(1234)));
  CHECK(first["utc_timestamp_ms"] == 1234);
  CHECK(first["id"] == "vm7");
  CHECK(first["block_root"] == json{{"read_count", 5}, {"flush_count", 0}});
  CHECK(first["block_data_2"]["read_count"] == 2);
  CHECK(first["block"] == json{{"read_count", 7}, {"flush_count", 1}});
  CHECK(first["vsock"]["rx_bytes_count"] == 10);
  groups[0].metrics[0].value = 6;
  const json second = json::parse(line.next(groups, milliseconds(2000)));
  CHECK(second["block_root"]["read_count"] == 1);
  CHECK(second["block"] == json{{"read_count", 1}, {"flush_count", 0}});
  CHECK(second["vsock"]["rx_bytes_count"] == 0);
}

TEST_CASE("groups of one name are added up") {
  MetricsLine line({});
  const std::vector<base::MetricGroup> groups = {{"mmds", {{"rx_count", 1}}}, {"mmds", {{"rx_count", 2}}}};
  CHECK(json::parse(line.next(groups, milliseconds(0)))["mmds"]["rx_count"] == 3);
}

TEST_CASE("lines are added to a file") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("metrics");
  for (const char* text : {"one", "two"}) {
    auto file = MetricsFile::open(path);
    REQUIRE(file.has_value());
    file->write(text);
    CHECK(file->lost_lines() == 0);
  }
  CHECK(base::read_file(path).value() == "one\ntwo\n");
  CHECK(MetricsFile::open(folder.path("no/such")).error().message.find(folder.path("no/such")) !=
        std::string::npos);
}

TEST_CASE("a FIFO without a reader takes what it holds; then whole lines are lost and counted") {
  const test::TemporaryFolder folder;
  const std::string path = folder.path("fifo");
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  auto file = MetricsFile::open(path);
  REQUIRE(file.has_value());
  const std::string line(20000, 'm');  // more than is written to a pipe at once
  for (int i = 0; i < 10; ++i) file->write(line);
  CHECK(file->lost_lines() > 0);
  CHECK(file->lost_lines() < 10);
  const base::UniqueFd reader(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  std::string all;
  const auto read_all = [&] {
    std::array<char, 4096> part;
    for (ssize_t n = 0; (n = ::read(reader.get(), part.data(), part.size())) > 0;) {
      all.append(part.data(), static_cast<std::size_t>(n));
    }
  };
  read_all();
  file->write("after");
  read_all();
  // Every line that is there is there whole.
  std::size_t lines = 0;
  for (std::size_t at = 0; at < all.size(); ++lines) {
    const std::size_t end = all.find('\n', at);
    REQUIRE(end != std::string::npos);
    const std::string_view text(all.data() + at, end - at);
    CHECK((text == line || text == "after"));
    at = end + 1;
  }
  CHECK(all.ends_with("\nafter\n"));
  CHECK(lines == 11 - file->lost_lines());
}

TEST_CASE("a reporter writes when it is told") {
  const test::TemporaryFolder folder;
  const auto loop = base::EventLoop::create().value();
  auto reporter = api::MetricsReporter::create(
      {.path = folder.path("metrics"), .emit_id = true, .properties = {{"zone", "a"}}}, "vm7", *loop, [] {
        return std::vector<base::MetricGroup>{{"vsock", {{"conns_added", 3}}}};
      });
  REQUIRE(reporter.has_value());
  (*reporter)->flush();
  const json line = json::parse(base::read_file(folder.path("metrics")).value());
  CHECK(line["id"] == "vm7");
  CHECK(line["zone"] == "a");
  CHECK(line["vsock"]["conns_added"] == 3);
  CHECK(line["utc_timestamp_ms"] > 1'600'000'000'000);
}
