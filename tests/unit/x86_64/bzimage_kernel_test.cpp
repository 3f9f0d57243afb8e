#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {

using namespace test;
using Catch::Contains;

TEST_CASE("a bzImage's compressed kernel is put where it prefers") {
  BzImage image;
  std::uint64_t header_end = sizeof(SetupHeader);
  SECTION("setup code of two sectors") {}
  SECTION("setup code of four, written as none") {
    image.header.setup_sects = 0;
  }
  SECTION("a shorter header") {
    image.jump_offset = 0x62;  // up to 0x264: protocol 2.12
    image.header.version = 0x020c;
    header_end = 0x264 - 0x1f1;
  }
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->entry == GuestAddress(0x1000200));
  CHECK(kernel->protocol == BootProtocol::kLinux64);
  CHECK(kernel->end == GuestAddress(0x1800000));
  CHECK(kernel->is_linux);
  REQUIRE(kernel->setup_header.has_value());
  CHECK(std::memcmp(&*kernel->setup_header, image.bytes().data() + 0x1f1, header_end) == 0);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(0xffffff)) == 0);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(0x1000000)) == 0x33);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(0x1002fff)) == 0x33);
  CHECK(*memory.read<std::uint8_t>(GuestAddress(0x1003000)) == 0);
}

TEST_CASE("bytes after the header's end are not part of the header") {
  BzImage image;
  image.jump_offset = 0x62;
  image.header.kernel_info_offset = 0xdeadbeef;  // at 0x268
  GuestMemory memory = make_memory(64 * kMib);
  const auto kernel = load_bytes(memory, image.bytes());
  REQUIRE(kernel.has_value());
  CHECK(kernel->setup_header->kernel_info_offset == 0);
}

TEST_CASE("what is appended to a bzImage stays out, and its last paragraph may be short") {
  BzImage image;
  GuestMemory memory = make_memory(64 * kMib);
  SECTION("a signature appended") {
    put(image.payload, image.payload.size(), filled(100, 0x55));
    REQUIRE(load_bytes(memory, image.bytes()).has_value());
    CHECK(*memory.read<std::uint8_t>(GuestAddress(0x1003000)) == 0);
  }
  SECTION("15 bytes short") {
    image.payload.resize(image.payload.size() - 15);
    REQUIRE(load_bytes(memory, image.bytes()).has_value());
  }
}

TEST_CASE("a bzImage cut off anywhere is refused") {
  const Bytes whole = BzImage().bytes();
  GuestMemory memory = make_memory(64 * kMib);
  for (std::size_t length = 0; length + 15 < whole.size(); ++length) {
    INFO("length " << length);
    REQUIRE_FALSE(load_bytes(memory, std::span(whole).first(length)).has_value());
  }
}

TEST_CASE("a bzImage that cannot be started is refused") {
  BzImage image;
  SECTION("too old") {
    image.header.version = 0x020b;
    CHECK_THAT(refusal(image.bytes()), Contains("2.11"));
  }
  SECTION("32-bit") {
    image.header.xloadflags = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("32-bit x86, not x86-64"));
  }
  SECTION("zImage") {
    image.header.loadflags = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("zImage"));
  }
  SECTION("no boot flag") {
    image.header.boot_flag = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("boot flag"));
  }
  SECTION("a header that ends before its version") {
    image.jump_offset = 2;
    CHECK_FALSE(refusal(image.bytes()).empty());
  }
  SECTION("larger than it says it needs") {
    image.header.init_size = static_cast<std::uint32_t>(image.payload.size() - 1);
    CHECK_THAT(refusal(image.bytes()), Contains("unpacked"));
  }
  SECTION("no code") {
    image.header.syssize = 0;
    CHECK_THAT(refusal(image.bytes()), Contains("damaged"));
  }
  SECTION("no room for the entry") {
    image.header.syssize = 0x20;
    CHECK_THAT(refusal(image.bytes()), Contains("damaged"));
  }
  SECTION("a size beyond the file") {
    image.header.syssize = 0xffffffff;
    CHECK_THAT(refusal(image.bytes()), Contains("truncated"));
  }
  SECTION("setup code longer than the file") {
    Bytes bytes = image.bytes();
    put_value(bytes, 0x1f1, std::uint8_t{255});
    CHECK_THAT(refusal(bytes), Contains("truncated"));
  }
  SECTION("more memory than there is") {
    image.header.init_size = 48 * kMib + 1;
    CHECK_THAT(refusal(image.bytes()), Contains("it needs 65 MiB, the machine has 64"));
  }
  SECTION("an address below 1 MiB") {
    image.header.pref_address = 0x10000;
    CHECK_THAT(refusal(image.bytes()), Contains("0x10000:"));
  }
  SECTION("an address that overflows") {
    image.header.pref_address = ~std::uint64_t{0} - 0x1000;
    CHECK_THAT(refusal(image.bytes()), Contains("beyond all addresses"));
  }
  SECTION("an address in the gap") {
    image.header.pref_address = 0xc0000000;
    CHECK_THAT(refusal(image.bytes()), Contains("below 0xc0000000"));
  }
}

TEST_CASE("a bzImage may use memory to its last byte") {
  BzImage image;
  image.header.init_size = 48 * kMib;
  CHECK(refusal(image.bytes()).empty());
}

}  // namespace mayfly::vmm::x86_64
