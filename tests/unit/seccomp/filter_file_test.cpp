// Compiled filters as bytes: read back as they were written, and checked.
#include "jailer/seccomp/filter_file.h"

#include <linux/seccomp.h>

#include <catch2/catch.hpp>
#include <cstddef>

#include "jailer/seccomp/install.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::jailer::seccomp;

namespace {

constexpr sock_filter kAllow{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ALLOW};
constexpr sock_filter kLoad{.code = BPF_LD | BPF_W | BPF_ABS, .jt = 0, .jf = 0, .k = 0};

std::string fault(const Program& program) {
  const auto read = decode(encode({Program{kAllow}, program, Program{kAllow}}));
  return read ? "none" : read.error().message;
}

std::string fault_of(const std::vector<std::byte>& bytes) {
  const auto read = decode(bytes);
  return read ? "none" : read.error().message;
}

}  // namespace

TEST_CASE("filter file: what is written is read") {
  const Program some = {
      kLoad, {.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 1, .k = kOwnProcess}, kAllow, kAllow};
  const Programs programs = {Program{kAllow}, some, Program{kLoad, kAllow}};
  const auto read = decode(encode(programs));
  REQUIRE(read);
  for (std::size_t i = 0; i < kThreads; ++i) {
    REQUIRE((*read)[i].size() == programs[i].size());
    for (std::size_t j = 0; j < programs[i].size(); ++j) {
      CHECK((*read)[i][j].code == programs[i][j].code);
      CHECK((*read)[i][j].jt == programs[i][j].jt);
      CHECK((*read)[i][j].jf == programs[i][j].jf);
      CHECK((*read)[i][j].k == programs[i][j].k);
    }
  }
  CHECK(encode(programs).size() == 16 + 3 * 8 + 7 * 8);
}

TEST_CASE("filter file: a program that the kernel would not take is refused, with the place") {
  const auto with = [](sock_filter instruction) { return fault({instruction, kAllow}); };
  const std::string place = "the program of the thread api: instruction 0 ";
  CHECK(fault({}) == "the program of the thread api: it has 0 instructions, not 1-4096");
  CHECK(fault(Program(4097, kAllow)) ==
        "the program of the thread api: it has 4097 instructions, not 1-4096");
  CHECK(fault({kLoad}) == place + "is the last, and no return");
  CHECK(with({.code = BPF_LD | BPF_W | BPF_ABS, .jt = 0, .jf = 0, .k = 2}) == place + "loads from 2");
  CHECK(with({.code = BPF_LD | BPF_W | BPF_ABS, .jt = 0, .jf = 0, .k = 64}) == place + "loads from 64");
  CHECK(with({.code = BPF_JMP | BPF_JA, .jt = 0, .jf = 0, .k = 1}) == place + "jumps past the end");
  CHECK(with({.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 1, .jf = 0, .k = 0}) == place + "jumps past the end");
  CHECK(with({.code = BPF_JMP | BPF_JGE | BPF_K, .jt = 0, .jf = 1, .k = 0}) == place + "jumps past the end");
  CHECK(with({.code = BPF_ST, .jt = 0, .jf = 0, .k = 0}) ==
        place + "is no instruction of a filter (code 0x2)");
  CHECK(with({.code = BPF_JMP | BPF_JEQ | BPF_K, .jt = 0, .jf = 0, .k = 9}) == "none");
}

TEST_CASE("filter file: bytes that are none") {
  const auto good = encode({Program{kAllow}, Program{kAllow}, Program{kAllow}});
  REQUIRE(fault_of(good) == "none");
  for (std::size_t size = 0; size < good.size(); ++size) {
    const std::vector<std::byte> part(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    CHECK(fault_of(part) != "none");
  }
  auto longer = good;
  longer.push_back(std::byte{0});
  CHECK(fault_of(longer) == "1 bytes follow the last program");
  auto other = good;
  other[0] = std::byte{'X'};
  CHECK(fault_of(other) == "these are no filters of mayfly-filter's");
  other = good;
  other[8] = std::byte{2};
  CHECK(fault_of(other) == "it has version 2 of the format, not 1");
  other = good;
  other[12] = std::byte{4};
  CHECK(fault_of(other) == "it has 4 programs, not 3");
  other = good;
  other[16] = std::byte{1};
  CHECK(fault_of(other) == "the program of the thread vmm: it is of the thread 1");
}

TEST_CASE("filter file: a file that cannot be used is named") {
  const test::TemporaryFolder folder;
  const auto fault_of_file = [](const std::string& path) {
    const auto filters = Filters::load(path);
    return filters ? "none" : filters.error().message;
  };
  CHECK(fault_of_file(folder.path("missing")) ==
        "open " + folder.path("missing") + ": No such file or directory");
  CHECK(fault_of_file(folder.file("text", "hello")) ==
        folder.path("text") + ": these are no filters of mayfly-filter's");
  CHECK(fault_of_file("/dev/zero") == "/dev/zero is larger than 98344 bytes");
}
