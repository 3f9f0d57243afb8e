#include "cli/options.h"
#include "cli/image_run.h"

#include <catch2/catch.hpp>
#include <cstdlib>

using namespace mayfly::cli;
using Words = std::vector<std::string>;

namespace {

RunOptions parsed(const Words& words) {
  const auto result = parse_run(words);
  INFO((result ? "" : result.error().message));
  REQUIRE(result.has_value());
  REQUIRE(result->options.has_value());
  return *result->options;
}

std::string error_of(const Words& words) {
  const auto result = parse_run(words);
  REQUIRE(!result.has_value());
  CHECK(result.error().message.find('\n') == std::string::npos);
  return result.error().message;
}

}  // namespace

TEST_CASE("the command is what follows --, untouched") {
  CHECK(parsed({"--", "ls", "-la", "--cpus", "99"}).command == Words{"ls", "-la", "--cpus", "99"});
  CHECK(parsed({"--cpus", "2", "--", "-x"}).command == Words{"-x"});
  CHECK(parsed({"--", "echo", "--", "--"}).command == Words{"echo", "--", "--"});
}

TEST_CASE("the first word before -- is an image, what follows is its command") {
  const RunOptions options = parsed({"--cpus", "2", "alpine:3", "ls", "-la", "--memory"});
  CHECK(options.image == "alpine:3");
  CHECK(options.command == Words{"ls", "-la", "--memory"});
  CHECK(options.cpus == 2);
  CHECK(parsed({"alpine", "--", "sh", "--", "y"}).command == Words{"sh", "--", "y"});
  CHECK(parsed({"alpine", "sh", "--", "y"}).command == Words{"sh", "--", "y"});
  CHECK(parsed({"alpine"}).command.empty());
  CHECK(parsed({"-t", "alpine"}).tty);
  CHECK(parsed({"--", "alpine"}).image.empty());
}

TEST_CASE("what an image says holds where the command line says nothing") {
  StoredImage image;
  image.name = "demo";
  image.file = "/images/demo.ext4";
  image.config = {.entrypoint = {"/bin/sh", "-c"},
                  .command = {"echo hi"},
                  .environment = {"PATH=/bin", "A=1"},
                  .user = "1234:50",
                  .directory = "/etc"};
  RunOptions options = parsed({"demo"});
  REQUIRE(apply_image(image, options));
  CHECK(options.rootfs == "/images/demo.ext4");
  CHECK(options.command == Words{"/bin/sh", "-c", "echo hi"});
  CHECK(options.environment == Words{"PATH=/bin", "A=1"});
  CHECK(options.uid == 1234);
  CHECK(options.gid == 50);
  CHECK(options.directory == "/etc");

  options = parsed({"--env", "A=2", "--env", "B=3", "--user", "0", "--workdir", "/tmp", "demo", "--", "pwd"});
  REQUIRE(apply_image(image, options));
  CHECK(options.command == Words{"/bin/sh", "-c", "pwd"});
  CHECK(options.environment == Words{"PATH=/bin", "A=2", "B=3"});
  CHECK(options.uid == 0);
  CHECK_FALSE(options.gid);
  CHECK(options.directory == "/tmp");

  image.config = {};
  options = parsed({"demo"});
  const auto empty = apply_image(image, options);
  REQUIRE_FALSE(empty);
  CHECK_THAT(empty.error().message, Catch::Matchers::Contains("the image demo has no command of its own"));
}

TEST_CASE("every option is taken") {
  const RunOptions options =
      parsed({"--cpus",         "4",        "--memory=512", "--kernel", "k",         "--rootfs",      "r",
              "--read-only",    "--env",    "A=1",          "-e",       "B=2 3",     "--workdir",     "/tmp",
              "--user",         "1000:100", "--timeout",    "1.5",      "--console", "--timing=json", "--tty",
              "--boot-timeout", "5",        "--",           "true"});
  CHECK(options.cpus == 4);
  CHECK(options.memory_mib == 512);
  CHECK(options.kernel == "k");
  CHECK(options.rootfs == "r");
  CHECK(options.root_mode == RootMode::kReadOnly);
  CHECK(options.environment == Words{"A=1", "B=2 3"});
  CHECK(options.directory == "/tmp");
  CHECK(options.uid == 1000);
  CHECK(options.gid == 100);
  CHECK(options.timeout == std::chrono::milliseconds(1500));
  CHECK(options.boot_timeout == std::chrono::seconds(5));
  CHECK(options.console);
  CHECK(options.tty);
  CHECK(options.timing == TimingReport::kJson);
}

TEST_CASE("defaults") {
  const RunOptions options = parsed({"true"});
  CHECK(options.cpus == 1);
  CHECK(options.memory_mib == kDefaultMemoryMib);
  CHECK(options.root_mode == RootMode::kScratch);
  CHECK(options.uid == 0);
  CHECK(!options.gid);
  CHECK(!options.timeout);
  CHECK(options.timing == TimingReport::kNone);
  CHECK(parsed({"--timing", "--", "true"}).timing == TimingReport::kTable);
  CHECK(parsed({"--writable", "true"}).root_mode == RootMode::kWritable);
  CHECK(!parsed({"--user", "7", "true"}).gid);
}

TEST_CASE("a variable without a value is handed on") {
  ::setenv("MAYFLY_TEST_HANDED_ON", "here", 1);
  ::unsetenv("MAYFLY_TEST_ABSENT");
  CHECK(parsed({"-e", "MAYFLY_TEST_HANDED_ON", "-e", "MAYFLY_TEST_ABSENT", "-e", "EMPTY=", "true"})
            .environment == Words{"MAYFLY_TEST_HANDED_ON=here", "EMPTY="});
}

TEST_CASE("a wrong command line is refused with its reason") {
  using Catch::Matchers::Contains;
  CHECK_THAT(error_of({}), Contains("no command"));
  CHECK_THAT(error_of({"--"}), Contains("no command"));
  CHECK_THAT(error_of({"--", ""}), Contains("empty"));
  CHECK_THAT(error_of({"--frob", "ls"}), Contains("--frob"));
  CHECK_THAT(error_of({"--cpus", "0", "ls"}), Contains("1 to 32"));
  CHECK_THAT(error_of({"--cpus", "33", "ls"}), Contains("1 to 32"));
  CHECK_THAT(error_of({"--cpus", "two", "ls"}), Contains("--cpus"));
  CHECK_THAT(error_of({"--cpus"}), Contains("--cpus"));
  CHECK_THAT(error_of({"--memory", "31", "ls"}), Contains("32 to 1048576"));
  CHECK_THAT(error_of({"--memory", "-1", "ls"}), Contains("32 to 1048576"));
  CHECK_THAT(error_of({"--memory", "99999999999999999999", "ls"}), Contains("32 to 1048576"));
  CHECK_THAT(error_of({"--user", "root", "ls"}), Contains("UID"));
  CHECK_THAT(error_of({"--user", "1:", "ls"}), Contains("UID"));
  CHECK_THAT(error_of({"--user", "4294967295", "ls"}), Contains("UID"));
  CHECK_THAT(error_of({"--timeout", "0", "ls"}), Contains("--timeout"));
  CHECK_THAT(error_of({"--timeout", "nan", "ls"}), Contains("--timeout"));
  CHECK_THAT(error_of({"--timing=xml", "ls"}), Contains("--timing"));
  CHECK_THAT(error_of({"--env", "=x", "ls"}), Contains("--env"));
  CHECK_THAT(error_of({"--read-only", "--writable", "ls"}), Contains("--writable"));
}

TEST_CASE("help teaches") {
  const auto help = parse_run(Words{"--help"});
  REQUIRE(help.has_value());
  CHECK(!help->options);
  using Catch::Matchers::Contains;
  CHECK_THAT(help->help, Contains("Examples:"));
  CHECK_THAT(help->help, Contains("COMMAND"));
  CHECK_THAT(help->help, Contains("--timing[=json]"));
  CHECK_THAT(std::string(main_help()), Contains("image build"));
}

TEST_CASE("--net, --publish and --dns") {
  CHECK(parsed({"true"}).network == NetworkMode::kNone);
  CHECK(parsed({"--net", "true"}).network == NetworkMode::kAuto);
  CHECK(parsed({"--net", "--", "true"}).command == Words{"true"});
  CHECK(parsed({"--net=tap", "true"}).network == NetworkMode::kTap);
  CHECK(parsed({"--net=passt", "true"}).network == NetworkMode::kPasst);
  const RunOptions options =
      parsed({"-p", "8080:80", "--publish", "127.0.0.1:5353:53/udp", "--dns", "192.0.2.1", "true"});
  CHECK(options.network == NetworkMode::kAuto);
  REQUIRE(options.publishes.size() == 2);
  CHECK(options.publishes[1].udp);
  CHECK(options.nameservers == std::vector{*parse_ipv4("192.0.2.1")});
  CHECK(error_of({"--net=bridge", "true"}).find("auto, tap or passt") != std::string::npos);
  CHECK(error_of({"-p", "80", "true"}).find("[ADDRESS:]HOST:GUEST") != std::string::npos);
  CHECK(error_of({"-p", "80:1", "-p", "127.0.0.1:80:2", "true"}).find("the same port") != std::string::npos);
  CHECK(error_of({"--dns", "127.0.0.53", "true"}).find("--dns: 127.0.0.53") != std::string::npos);
  CHECK(error_of({"--dns", "example.com", "true"}).find("--dns: example.com") != std::string::npos);
}
