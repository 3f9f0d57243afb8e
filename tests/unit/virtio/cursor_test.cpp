// Reader and Writer: bytes over pieces.
#include <catch2/catch.hpp>

#include <array>

#include "tests/support/virtio_driver.h"

using namespace mayfly;
using namespace mayfly::virtio;

namespace {

struct Pieces {
  std::array<std::byte, 10> bytes{};
  Pieces() {
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = std::byte(i);
  }
  // 3, 0, 1, 6 bytes.
  [[nodiscard]] std::vector<std::span<std::byte>> cut() {
    const std::span all(bytes);
    return {all.first(3), all.subspan(3, 0), all.subspan(3, 1), all.subspan(4)};
  }
};

}  // namespace

TEST_CASE("a reader joins its pieces") {
  Pieces pieces;
  Reader reader(pieces.cut());
  CHECK(reader.remaining() == 10);
  std::array<std::byte, 10> out{};
  CHECK(reader.read(out) == 10);
  CHECK(out == pieces.bytes);
  CHECK(reader.remaining() == 0);
  CHECK(reader.read(out) == 0);
}

TEST_CASE("a reader stops at its end") {
  Pieces pieces;
  Reader reader(pieces.cut());
  std::array<std::byte, 32> out{};
  CHECK(reader.read(out) == 10);
}

TEST_CASE("an object is read whole over a border or not at all") {
  Pieces pieces;
  Reader reader(pieces.cut());
  CHECK(reader.skip(2) == 2);
  const auto value = reader.read_object<base::Le32>();
  REQUIRE(value);
  CHECK(std::uint32_t{*value} == 0x05040302U);
  CHECK(reader.remaining() == 4);
  CHECK_FALSE(reader.read_object<base::Le64>());
  CHECK(reader.remaining() == 4);
}

TEST_CASE("take_spans gives the same host bytes, cut to the limit") {
  Pieces pieces;
  Reader reader(pieces.cut());
  const auto spans = reader.take_spans(6);
  REQUIRE(spans.size() == 3);
  CHECK(spans[0].data() == pieces.bytes.data());
  CHECK(spans[0].size() == 3);
  CHECK(spans[1].size() == 1);
  CHECK(spans[2].size() == 2);
  CHECK(reader.remaining() == 4);
  const auto rest = reader.take_spans(100);
  REQUIRE(rest.size() == 1);
  CHECK(rest[0].data() == pieces.bytes.data() + 6);
  CHECK(reader.take_spans(1).empty());
}

TEST_CASE("what is left can be looked at without being taken") {
  Pieces pieces;
  Reader reader(pieces.cut());
  CHECK(reader.spans().size() == 3);
  reader.skip(5);
  REQUIRE(reader.spans().size() == 1);
  CHECK(reader.spans()[0].data() == pieces.bytes.data() + 5);
  CHECK(reader.spans()[0].size() == 5);
  CHECK(reader.remaining() == 5);
  reader.skip(5);
  CHECK(reader.spans().empty());
}

TEST_CASE("skip goes over several pieces and stops at the end") {
  Pieces pieces;
  Reader reader(pieces.cut());
  CHECK(reader.skip(5) == 5);
  std::array<std::byte, 1> out{};
  reader.read(out);
  CHECK(out[0] == std::byte{5});
  CHECK(reader.skip(100) == 4);
  CHECK(reader.skip(1) == 0);
}

TEST_CASE("a writer fills its pieces and stops at the end") {
  Pieces pieces;
  Writer writer(pieces.cut());
  const auto text = test::to_bytes("abcdefghijkl");
  CHECK(writer.write(text) == 10);
  CHECK(test::to_text(pieces.bytes) == "abcdefghij");
  CHECK_FALSE(writer.write_object(std::uint8_t{1}));
}

TEST_CASE("the tail of a writer is cut at every place") {
  for (std::uint64_t n = 0; n <= 10; ++n) {
    Pieces pieces;
    Writer head(pieces.cut());
    Writer tail = head.split_tail(n);
    CHECK(head.remaining() == 10 - n);
    CHECK(tail.remaining() == n);
    const std::vector<std::byte> ones(10, std::byte{0x11});
    const std::vector<std::byte> twos(10, std::byte{0x22});
    CHECK(head.write(ones) == 10 - n);
    CHECK(tail.write(twos) == n);
    for (std::uint64_t i = 0; i < 10; ++i) CHECK(pieces.bytes[i] == std::byte(i < 10 - n ? 0x11 : 0x22));
  }
}

TEST_CASE("the tail of a writer that was written to before") {
  Pieces pieces;
  Writer writer(pieces.cut());
  writer.skip(4);
  Writer tail = writer.split_tail(6);
  CHECK(writer.remaining() == 0);
  CHECK(writer.write(test::to_bytes("x")) == 0);
  CHECK(tail.write(test::to_bytes("uvwxyz")) == 6);
  CHECK(test::to_text(std::span(pieces.bytes).subspan(4)) == "uvwxyz");
}
