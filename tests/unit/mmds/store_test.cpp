#include "mmds/store.h"

#include <catch2/catch.hpp>

#include <atomic>
#include <string>
#include <thread>

#include "base/json.h"

using namespace mayfly::mmds;

namespace {

constexpr const char* kDocument =
    R"({"latest": {"meta-data": {"ami-id": "ami-1", "net": {"a/b": "slash", "c~d": "tilde"}, "n": 7, "list": ["x", {"y": "z"}],
        "yes": true, "none": null, "empty": {}, "text": ""}, "user-data": "two\nlines"}})";

struct Filled : Store {
  Filled() { REQUIRE(put(kDocument)); }
  std::string imds(std::string_view path) const { return find(path, Format::kImds).value(); }
  Missing missing(std::string_view path, Format format = Format::kImds) const {
    const auto found = find(path, format);
    REQUIRE_FALSE(found);
    return found.error();
  }
};

std::string nested(unsigned depth, char open, char close) {
  return R"({"a": )" + std::string(depth - 1, open) + std::string(depth - 1, close) + "}";
}

}  // namespace

TEST_CASE("mmds store: nothing is there before the first put") {
  const Store store;
  CHECK(store.get() == "{}");
  CHECK(store.find("/", Format::kJson).error() == Missing::kNotFound);
  CHECK(store.find("/a", Format::kImds).error() == Missing::kNotFound);
}

TEST_CASE("mmds store: paths") {
  const Filled store;
  CHECK(store.imds("/latest/meta-data/ami-id") == "ami-1");
  CHECK(store.imds("//latest///meta-data/ami-id//") == "ami-1");
  CHECK(store.imds("latest/meta-data/net/a~1b") == "slash");
  CHECK(store.imds("latest/meta-data/net/c~0d") == "tilde");
  CHECK(store.imds("/latest/meta-data/list/0") == "x");
  CHECK(store.imds("/latest/meta-data/list/1/y") == "z");
  for (const char* path :
       {"/late", "/latest/x", "/latest/meta-data/ami-id/x", "/latest/meta-data/list/2",
        "/latest/meta-data/list/00", "/latest/meta-data/list/-1", "/latest/meta-data/list/0x",
        "/latest/meta-data/list/99999999999999999999", "/latest/meta-data/n/0", "/~"}) {
    CAPTURE(path);
    CHECK(store.missing(path) == Missing::kNotFound);
    CHECK(store.missing(path, Format::kJson) == Missing::kNotFound);
  }
}

TEST_CASE("mmds store: the IMDS form lists keys and shows strings") {
  const Filled store;
  CHECK(store.imds("/") == "latest/");
  CHECK(store.imds("") == "latest/");
  CHECK(store.imds("/latest/") == "meta-data/\nuser-data");
  CHECK(store.imds("/latest/meta-data") == "ami-id\nempty/\nlist\nn\nnet/\nnone\ntext\nyes");
  CHECK(store.imds("/latest/user-data") == "two\nlines");
  CHECK(store.imds("/latest/meta-data/empty") == "");
  CHECK(store.imds("/latest/meta-data/text") == "");
  for (const char* path : {"n", "list", "yes", "none"}) {
    CHECK(store.missing(std::string("/latest/meta-data/") + path) == Missing::kUnsupported);
  }
}

TEST_CASE("mmds store: the JSON form shows any value") {
  const Filled store;
  CHECK(store.find("/latest/meta-data/n", Format::kJson) == "7");
  CHECK(store.find("/latest/meta-data/ami-id", Format::kJson) == R"("ami-1")");
  CHECK(store.find("/latest/meta-data/list", Format::kJson) == R"(["x",{"y":"z"}])");
  CHECK(store.find("/latest/meta-data/none", Format::kJson) == "null");
  CHECK(store.find("/", Format::kJson) == store.get());
}

TEST_CASE("mmds store: a patch merges") {
  Store store;
  CHECK_FALSE(store.patch(R"({"a": 1})"));
  // The example of RFC 7396, section 3.
  REQUIRE(store.put(
      R"({"title": "Goodbye!", "author": {"givenName": "John", "familyName": "Doe"}, "tags": ["example", "sample"],
                        "content": "This will be unchanged"})"));
  REQUIRE(store.patch(
      R"({"title": "Hello!", "phoneNumber": "+01-123-456-7890", "author": {"familyName": null}, "tags": ["example"]})"));
  CHECK(
      store.get() ==
      R"({"author":{"givenName":"John"},"content":"This will be unchanged","phoneNumber":"+01-123-456-7890","tags":["example"],"title":"Hello!"})");
}

TEST_CASE("mmds store: what is no object is refused, and changes nothing") {
  Store store;
  REQUIRE(store.put(R"({"a": "b"})"));
  for (const char* text : {"", "{", "[]", "\"x\"", "null", "7", "{} {}", "{\"a\": \"\xff\"}"}) {
    CAPTURE(text);
    CHECK_FALSE(store.put(text));
    CHECK_FALSE(store.patch(text));
    CHECK(store.get() == R"({"a":"b"})");
  }
}

TEST_CASE("mmds store: the size is limited") {
  Store store(20);
  REQUIRE(store.put(R"(   { "a" :   "0123456789ab" }   )"));
  CHECK(store.get().size() == 20);
  const auto refused = store.put(R"({"a":"0123456789abc"})");
  REQUIRE_FALSE(refused);
  CHECK_THAT(refused.error().message, Catch::Contains("21") && Catch::Contains("20"));
  CHECK_FALSE(store.patch(R"({"b":1})"));
  CHECK(store.patch(R"({"a":null,"b":1})"));
  CHECK(store.get() == R"({"b":1})");
}

TEST_CASE("mmds store: nesting is limited") {
  Store store;
  CHECK(store.put(nested(mayfly::base::kDeepestNesting, '[', ']')));
  CHECK_FALSE(store.put(nested(mayfly::base::kDeepestNesting + 1, '[', ']')));
  CHECK_FALSE(store.put(nested(20000, '[', ']')));
  CHECK_FALSE(store.patch(nested(20000, '[', ']')));
  CHECK(store.put(R"({"a": "\"[[[[", "b": ")" + std::string(1000, '{') + R"("})"));
}

TEST_CASE("mmds store: threads read and write at once") {
  Store store;
  REQUIRE(store.put(R"({"a": "0"})"));
  std::atomic<bool> done = false;
  std::atomic<int> odd = 0;
  std::jthread reader([&] {
    while (!done) {
      const auto a = store.find("/a", Format::kImds);
      if (!a || a->size() != 1) ++odd;
    }
  });
  for (int i = 0; i < 2000; ++i) REQUIRE(store.patch(i % 2 == 0 ? R"({"a": "1"})" : R"({"a": "2"})"));
  done = true;
  reader.join();
  CHECK(odd == 0);
}
