#include <fcntl.h>

#include "kernel_files.h"

namespace mayfly::vmm::x86_64 {

using namespace test;
using Catch::Contains;

namespace {

std::string refusal_of_path(const char* path) {
  const base::UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
  REQUIRE(fd.valid());
  GuestMemory memory = make_memory(kMib);
  const auto kernel = load_kernel(memory, fd.get(), path);
  REQUIRE_FALSE(kernel.has_value());
  return kernel.error().message;
}

Bytes with_magic(std::size_t offset, std::string_view magic) {
  Bytes bytes = filled(4096, 0);
  put(bytes, offset, std::as_bytes(std::span(magic)));
  return bytes;
}

}  // namespace

TEST_CASE("what is no kernel file is refused") {
  CHECK(refusal({}) == "kernel test.img is empty");
  CHECK(refusal_of_path("/") == "kernel / is a directory");
  CHECK(refusal_of_path("/dev/null") == "kernel /dev/null is not a regular file");
  GuestMemory memory = make_memory(kMib);
  CHECK_FALSE(load_kernel(memory, -1, "nothing").has_value());
}

TEST_CASE("files that people take for kernels are named, with the remedy") {
  using namespace std::string_view_literals;
  CHECK_THAT(refusal(with_magic(0, "\x1f\x8b\x08"sv)), Contains("gzip") && Contains("gunzip"));
  CHECK_THAT(refusal(with_magic(0, "\x28\xb5\x2f\xfd"sv)), Contains("zstd -d"));
  CHECK_THAT(refusal(with_magic(0,
                                "\xfd"
                                "7zXZ\0"sv)),
             Contains("xz -d"));
  CHECK_THAT(refusal(with_magic(0x38, "ARM\x64"sv)), Contains("aarch64") && Contains("vmlinux"));
  CHECK_THAT(refusal(with_magic(0, "070701"sv)), Contains("initrd"));
  CHECK_THAT(refusal(with_magic(1080, "\x53\xef"sv)), Contains("ext4"));
  CHECK_THAT(refusal(with_magic(0, "#!/bin/sh\n"sv)), Contains("script"));
  CHECK_THAT(refusal(with_magic(0, "MZ"sv)), Contains("EFI"));
  CHECK_THAT(refusal(filled(1, 'x')), Contains("of no known kind") && Contains("bzImage"));
  CHECK_THAT(refusal(filled(4096, 0)), Contains("of no known kind"));
}

}  // namespace mayfly::vmm::x86_64
