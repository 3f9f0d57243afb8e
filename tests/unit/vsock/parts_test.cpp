// The parts that need no device: the text protocol, the byte ring, the host's sockets.
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "tests/unit/vsock/guest.h"
#include "tests/unit/vsock/host.h"
#include "virtio/vsock/backend.h"
#include "virtio/vsock/byte_ring.h"
#include "virtio/vsock/text_protocol.h"

namespace mayfly::test {

namespace {

std::optional<std::uint32_t> port_of(std::string_view text) {
  vsock::ConnectLine line;
  line.take(text);
  return line.port();
}

}  // namespace

TEST_CASE("The CONNECT line") {
  CHECK(port_of("CONNECT 52\n") == 52U);
  CHECK(port_of("CONNECT 0\n") == 0U);
  CHECK(port_of("CONNECT 4294967295\n") == 4294967295U);
  for (const std::string_view bad :
       {"", "\n", "CONNECT\n", "CONNECT \n", "CONNECT 52", "CONNECT 4294967296\n", "CONNECT 99999999999\n",
        "CONNECT -1\n", "CONNECT +1\n", "CONNECT 0x10\n", "CONNECT 5 2\n", "CONNECT  52\n", "CONNECT 52 \n",
        "CONNECT 52\r\n", "connect 52\n", "CONNEC", " CONNECT 52\n", "GET / HTTP/1.1\n",
        "CONNECT 00000000000000000000000000000052\n"}) {
    INFO(bad);
    CHECK_FALSE(port_of(bad).has_value());
  }
  CHECK_FALSE(port_of(std::string_view("CONNECT 5\0\n", 11)).has_value());
}

TEST_CASE("The CONNECT line ends at its newline, however it is cut") {
  vsock::ConnectLine line;
  CHECK(line.take("CONN") == 4);
  CHECK_FALSE(line.complete());
  CHECK(line.take("ECT 7") == 5);
  CHECK(line.take("7\ndata\n") == 2);
  CHECK(line.complete());
  CHECK(line.port() == 77U);
}

TEST_CASE("A CONNECT line that does not end is taken to its limit only") {
  vsock::ConnectLine line;
  CHECK(line.take(std::string(100, 'x')) == vsock::ConnectLine::kLongest);
  CHECK(line.room() == 0);
  CHECK(line.take("\n") == 0);
  CHECK_FALSE(line.complete());
}

TEST_CASE("A byte ring keeps the order across its end") {
  vsock::ByteRing ring(base::Mapping::anonymous(4096).value());
  std::string expected;
  char next = 0;
  for (int round = 0; round < 50; ++round) {
    std::string in(3000 - ring.size(), ' ');
    for (char& c : in) c = next++;
    expected += in;
    ring.write(std::as_bytes(std::span(in)));
    std::string out;
    for (const auto& part : ring.contents()) out += to_text(part);
    REQUIRE(out == expected);
    ring.consume(1234);
    expected.erase(0, 1234);
  }
  CHECK(ring.size() == expected.size());
  ring.consume(ring.size());
  CHECK(ring.empty());
  CHECK(ring.room() == 4096);
}

TEST_CASE("What is left of a list of parts") {
  std::array<std::byte, 10> bytes{};
  const std::array<std::span<std::byte>, 3> parts = {
      std::span(bytes).first(4), std::span(bytes).subspan(4, 3), std::span(bytes).subspan(7)};
  CHECK(vsock::after(parts, 0).size() == 3);
  const auto rest = vsock::after(parts, 5);
  REQUIRE(rest.size() == 2);
  CHECK(rest[0].data() == &bytes[5]);
  CHECK(rest[0].size() == 2);
  CHECK(vsock::after(parts, 10).empty());
}

TEST_CASE("A listener's file is there while it is, and no longer") {
  const Folder folder;
  const std::string path = folder.path("v.sock");
  {
    const auto listener = vsock::Listener::create(path);
    REQUIRE(listener);
    CHECK(std::filesystem::is_socket(path));
    const HostSocket program = HostSocket::connect(path);
    const auto accepted = listener->accept();
    REQUIRE(accepted);
    CHECK(accepted->has_value());
    CHECK_FALSE(listener->accept()->has_value());
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("A listener leaves a file that is not its own") {
  const Folder folder;
  const std::string path = folder.path("v.sock");
  {
    const auto listener = vsock::Listener::create(path);
    REQUIRE(listener);
    std::filesystem::rename(path, folder.path("elsewhere"));
    std::ofstream(path) << "another's";
  }
  CHECK(std::filesystem::is_regular_file(path));
}

TEST_CASE("A listener that cannot be made says why") {
  const Folder folder;
  const std::string taken = folder.path("taken");
  std::ofstream(taken) << "x";
  const auto error_of = [](const std::string& path) {
    const auto listener = vsock::Listener::create(path);
    REQUIRE_FALSE(listener);
    return listener.error().message;
  };
  CHECK_THAT(error_of(taken), Catch::Contains("exists already") && Catch::Contains(taken));
  CHECK(std::filesystem::exists(taken));
  CHECK_THAT(error_of(folder.path("no/such/folder/v.sock")), Catch::Contains("does not exist"));
  CHECK_THAT(error_of("/tmp/" + std::string(103, 'x')), Catch::Contains("at most 107 bytes"));
  CHECK_THAT(error_of(""), Catch::Contains("empty"));
  CHECK_THAT(error_of(taken + "/v.sock"), Catch::Contains("Not a directory"));
}

TEST_CASE("A device with a reserved CID or an unusable path is not made") {
  const Folder folder;
  const auto loop = base::EventLoop::create().value();
  for (const std::uint32_t cid : {0U, 1U, 2U, 0xffffffffU}) {
    const auto device = vsock::Device::create({.guest_cid = cid, .uds_path = folder.path("v")}, *loop);
    REQUIRE_FALSE(device);
    CHECK_THAT(device.error().message, Catch::Contains("guest_cid"));
  }
  const auto device = vsock::Device::create({.guest_cid = 3, .uds_path = folder.path("a/b")}, *loop);
  REQUIRE_FALSE(device);
  CHECK_THAT(device.error().message, Catch::Contains("uds_path") && Catch::Contains("does not exist"));
}

}  // namespace mayfly::test
