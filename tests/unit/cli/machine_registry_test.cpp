#include "cli/machine_registry.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "cli/machine_name.h"
#include "cli/machine_status.h"
#include "cli/table.h"
#include "tests/support/eventually.h"
#include "tests/support/pipe.h"
#include "tests/support/temporary_folder.h"

using namespace mayfly;
using namespace mayfly::cli;
using Catch::Matchers::Contains;

namespace {

struct Place {
  test::TemporaryFolder folder;
  std::vector<std::string> parents = {folder.path("mayfly")};

  MachineEntry make(const std::string& name) const {
    auto entry = MachineEntry::create_below(parents, name);
    INFO((entry ? "" : entry.error().message));
    REQUIRE(entry.has_value());
    return std::move(*entry);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const FoundMachine& each : find_machines_below(parents)) out.push_back(each.facts.name);
    return out;
  }
  // What is in the folder of machines, but for the lock of turns.
  std::vector<std::string> left() const {
    std::vector<std::string> out;
    for (const auto& each : std::filesystem::directory_iterator(parents.front() + "/machines")) {
      if (each.path().filename() != ".lock") out.push_back(each.path().filename());
    }
    return out;
  }
};

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("names of machines") {
  for (const char* good : {"a", "web-1", "A-b", "0", "a234567890123456789012345678901234567890"}) {
    CHECK(check_machine_name(good).has_value());
  }
  for (const char* bad : {"", "-a", ".a", "a/b", "..", "a.b", "a_b", "a b", "é", "a\n",
                          "a2345678901234567890123456789012345678901"}) {
    const auto checked = check_machine_name(bad);
    REQUIRE(!checked.has_value());
    CHECK(checked.error().message.find('\n') == std::string::npos);
    CHECK_THAT(checked.error().message, Contains("no name for a machine"));
  }
  for (int i = 0; i < 1000; ++i) CHECK(check_machine_name(made_up_name()).has_value());
}

TEST_CASE("an entry is there for as long as somebody keeps it") {
  const Place place;
  CHECK(place.names().empty());
  {
    const MachineEntry b = place.make("b");
    const MachineEntry a = place.make("a");
    CHECK(place.names() == Names{"a", "b"});
    const auto taken = MachineEntry::create_below(place.parents, "a");
    REQUIRE(!taken.has_value());
    CHECK_THAT(taken.error().message, Contains("named a runs already") && Contains("mayfly stop a"));
  }
  CHECK(place.names().empty());
  CHECK(place.left().empty());
  CHECK(place.make("a").name() == "a");
}

TEST_CASE("without a name one is made up") {
  const Place place;
  std::vector<MachineEntry> entries;
  for (int i = 0; i < 20; ++i) entries.push_back(place.make(""));
  CHECK(place.names().size() == 20);
}

TEST_CASE("what was left by somebody who was killed is removed by whoever comes next") {
  const Place place;
  test::Pipe ready;
  const pid_t pid = ::fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    const auto entry = MachineEntry::create_below(place.parents, "victim");
    std::ofstream(entry->path() + "/log.0") << "text";
    [[maybe_unused]] const ssize_t n = ::write(ready.write.get(), "x", 1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  REQUIRE(::read(ready.read.get(), &byte, 1) == 1);
  CHECK(place.names() == Names{"victim"});
  CHECK(!MachineEntry::create_below(place.parents, "victim").has_value());
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);

  SECTION("by one who looks") {
    CHECK(place.left() == Names{"victim"});
    CHECK(place.names().empty());
    CHECK(place.left().empty());
  }
  SECTION("by one who takes the name") {
    const MachineEntry entry = place.make("victim");
    CHECK(!std::filesystem::exists(entry.path() + "/log.0"));
    CHECK(place.names() == Names{"victim"});
  }
}

TEST_CASE("an entry whose name is somebody else's by now is left alone") {
  const Place place;
  auto old = std::make_unique<MachineEntry>(place.make("a"));
  std::filesystem::rename(old->path(), place.parents.front() + "/elsewhere");
  const MachineEntry later = place.make("a");
  old.reset();
  CHECK(place.names() == Names{"a"});
}

TEST_CASE("many at once make, find and remove entries") {
  const Place place;
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid > 0) {
      children.push_back(pid);
      continue;
    }
    int bad = 0;
    for (int round = 0; round < 25; ++round) {
      // Two want the same name: one has it, or neither does any more.
      const auto shared = MachineEntry::create_below(place.parents, "shared");
      const auto own = MachineEntry::create_below(place.parents, fmt::format("own-{}", i));
      if (!own) ++bad;
      const Names names = place.names();
      if (std::ranges::find(names, fmt::format("own-{}", i)) == names.end()) ++bad;
      if (shared && std::ranges::find(names, "shared") == names.end()) ++bad;
    }
    ::_exit(bad == 0 ? 0 : 1);
  }
  for (const pid_t pid : children) {
    int status = -1;
    ::waitpid(pid, &status, 0);
    CHECK(status == 0);
  }
  CHECK(place.left().empty());
}

TEST_CASE("waiting for the end of a machine") {
  const Place place;
  auto entry = std::make_unique<MachineEntry>(place.make("a"));
  auto found = find_machines_below(place.parents);
  REQUIRE(found.size() == 1);
  CHECK(is_kept(found[0]));
  std::thread ender([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    entry.reset();
  });
  wait_until_gone(found[0]);
  ender.join();
  CHECK(!is_kept(found[0]));
}

TEST_CASE("a folder that cannot be used is an error with a remedy") {
  const auto entry = MachineEntry::create_below({"/proc/nowhere"}, "a");
  REQUIRE(!entry.has_value());
  CHECK_THAT(entry.error().message, Contains("/proc/nowhere") && Contains("XDG_RUNTIME_DIR"));
  const test::TemporaryFolder folder;
  const std::string deep = folder.path(std::string(60, 'x'));
  std::filesystem::create_directory(deep);
  const auto too_long = MachineEntry::create_below({deep + "/mayfly"}, "a-name-of-some-length");
  REQUIRE(!too_long.has_value());
  CHECK_THAT(too_long.error().message, Contains("too long") && Contains("--name"));
}

TEST_CASE("what is known of a machine survives being written") {
  const Place place;
  const MachineEntry entry = place.make("a");
  const MachineFacts facts{.name = "a",
                           .pid = 12,
                           .vmm_pid = 13,
                           .command = {"sh", "-c", "echo \"x\"", std::string("\xff", 1)},
                           .cpus = 2,
                           .memory_mib = 256,
                           .root_mode = "scratch",
                           .kernel = "/k",
                           .rootfs = "/r",
                           .network = "tap",
                           .jail = "root",
                           .publishes = {"8080:80"},
                           .created_ms = 1000,
                           .started_ms = 2000};
  REQUIRE(entry.write(facts).has_value());
  const auto found = find_machines_below(place.parents);
  REQUIRE(found.size() == 1);
  const MachineFacts& read = found[0].facts;
  CHECK(read.vmm_pid == 13);
  CHECK(read.command.size() == 4);
  CHECK(read.command[2] == "echo \"x\"");
  CHECK(read.publishes == Names{"8080:80"});
  CHECK(read.started_ms == 2000);
  for (const char* bad : {"", "[]", "{}", R"({"name": 7})", "{\"name\": \"a\"", "null"}) {
    CHECK(!parse_facts(bad).has_value());
  }
}

TEST_CASE("machines as a table and as JSON") {
  MachineFacts facts;
  facts.name = "web";
  facts.command = {"sh", "-c", "sleep 1; echo 'a b'"};
  facts.cpus = 2;
  facts.memory_mib = 512;
  facts.created_ms = 1'000'000;
  const std::vector<ListedMachine> machines = {{facts, MachineState::kStarting}, [&] {
                                                 MachineFacts up = facts;
                                                 up.name = "worker-12";
                                                 up.command.clear();
                                                 up.started_ms = 2'000'000;
                                                 return ListedMachine{up, MachineState::kPaused};
                                               }()};
  CHECK(as_table(machines, 2'065'000) ==
        "NAME       STATE            UP  CPUS   MEMORY  COMMAND\n"
        "web        starting          -     2  512 MiB  sh -c 'sleep 1; echo '\\''a b'\\'''\n"
        "worker-12  paused    1 min 5 s     2  512 MiB  -\n");
  const auto json = as_json(machines[1], 2'065'000);
  CHECK(json["state"] == "paused");
  CHECK(json["uptime_s"] == 65);
  CHECK(json["command"].empty());
  CHECK(as_json(machines[0], 0)["uptime_s"] == 0);
}

TEST_CASE("amounts, spans and commands in words") {
  CHECK(as_amount(0) == "0 B");
  CHECK(as_amount(1023) == "1023 B");
  CHECK(as_amount(1536) == "1.5 KiB");
  CHECK(as_amount(200ULL << 20U) == "200 MiB");
  CHECK(as_span(59) == "59 s");
  CHECK(as_span(3661) == "1 h 1 min");
  CHECK(as_span(90000) == "1 d 1 h");
  CHECK(as_command({"echo", "a\033[31m"}, 40) == "echo 'a?[31m'");
  CHECK(as_command({"ääääää"}, 6) == "'ääää…");
  CHECK(as_command({""}, 6) == "''");
}
