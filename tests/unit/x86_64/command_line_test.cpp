#include "vmm/x86_64/command_line.h"

#include <catch2/catch.hpp>

#include "vmm/x86_64/layout.h"

namespace mayfly::vmm::x86_64 {

using Catch::Contains;

namespace {

std::string after_append(std::string_view boot_args, std::string_view words) {
  auto line = CommandLine::create(boot_args);
  REQUIRE(line.has_value());
  REQUIRE(line->append(words).has_value());
  return line->text();
}

}  // namespace

TEST_CASE("words for the kernel come before those for init") {
  CHECK(after_append("", "a=1") == "a=1");
  CHECK(after_append("quiet", "a=1 b") == "quiet a=1 b");
  CHECK(after_append("quiet ", "a=1") == "quiet a=1");
  CHECK(after_append("quiet -- x y", "a=1") == "quiet a=1 -- x y");
  CHECK(after_append("-- x", "a=1") == "a=1 -- x");
  CHECK(after_append("quiet --", "a=1") == "quiet a=1 --");
  CHECK(after_append("--", "a=1") == "a=1 --");
  CHECK(after_append("a -- b -- c", "d") == "a d -- b -- c");
}

TEST_CASE("only a -- that stands alone outside quotes ends the kernel's words") {
  CHECK(after_append("a=--", "b") == "a=-- b");
  CHECK(after_append("--a", "b") == "--a b");
  CHECK(after_append("a--", "b") == "a-- b");
  CHECK(after_append("a=\"x -- y\" z", "b") == "a=\"x -- y\" z b");
  CHECK(after_append("a=\"x -- y\" -- z", "b") == "a=\"x -- y\" b -- z");
}

TEST_CASE("a device is announced with its size, address and interrupt") {
  auto line = CommandLine::create("quiet -- -x");
  REQUIRE(line->append_virtio_mmio_device(virtio_mmio_address(1), virtio_mmio_gsi(1)).has_value());
  CHECK(line->text() == "quiet virtio_mmio.device=4K@0xc0002000:6 -- -x");
}

TEST_CASE("what a kernel could not read is refused") {
  for (const char* text : {"a\n", "a\tb", "\x7f", "caf\xc3\xa9", "\x01"}) {
    const auto line = CommandLine::create(text);
    REQUIRE_FALSE(line.has_value());
    CHECK_THAT(line.error().message, Contains("printable ASCII"));
  }
  CHECK_THAT(CommandLine::create("ab\n").error().message, Contains("0x0a at position 2"));
  CHECK_FALSE(CommandLine::create(std::string_view("a\0b", 3)).has_value());
  auto line = CommandLine::create("a");
  CHECK_FALSE(line->append("b\n").has_value());
  CHECK(line->text() == "a");
}

TEST_CASE("the limit is the kernel's, and a word too many changes nothing") {
  CHECK(CommandLine::create(std::string(2047, 'x')).has_value());
  const auto too_long = CommandLine::create(std::string(2048, 'x'));
  REQUIRE_FALSE(too_long.has_value());
  CHECK_THAT(too_long.error().message, Contains("2048 characters") && Contains("at most 2047"));

  auto line = CommandLine::create(std::string(2040, 'x'));
  CHECK(line->append("yyyyyy").has_value());
  CHECK(line->text().size() == 2047);
  const std::string before = line->text();
  CHECK_FALSE(line->append("z").has_value());
  CHECK(line->text() == before);
}

TEST_CASE("the default is valid and recognises a panic") {
  const auto line = CommandLine::create(kDefaultBootArgs);
  REQUIRE(line.has_value());
  CHECK_THAT(line->text(), Contains("reboot=k,panic_warm") && Contains("panic=-1"));
}

}  // namespace mayfly::vmm::x86_64
