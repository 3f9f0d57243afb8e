// mayfly-vmm with its filters on: what it is for goes on, and the flags that change the filters do what they
// say.
#include <fcntl.h>
#include <net/if.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "jailer/seccomp/install.h"
#include "tests/security/vmm_under_test.h"
#include "tests/support/guest_driver.h"
#include "tests/support/require_kvm.h"
#include "tests/support/tap.h"
#include "tests/support/tiny_machine.h"
#include "vmm/x86_64/layout.h"

using namespace mayfly;
using namespace mayfly::test;
using Catch::Contains;
using nlohmann::json;

namespace {

constexpr std::uint32_t kSectorsAfterwards = 24;

// Where the guest keeps the queues of the device in slot `n`, and its data.
constexpr std::uint32_t place(std::uint32_t n, std::uint32_t page) {
  return 0x180000 + n * 0x10000 + page * 0x1000;
}
std::uint32_t registers(std::uint32_t n) {
  return static_cast<std::uint32_t>(vmm::x86_64::virtio_mmio_address(n).value());
}
GuestQueue queue(std::uint32_t n, std::uint16_t index) {
  return {.index = index,
          .size = 8,
          .table = place(n, index * 3U),
          .available = place(n, index * 3U + 1),
          .used = place(n, index * 3U + 2)};
}

void set_up(Code& code, std::uint32_t n, std::uint16_t queues) {
  GuestDriver driver(code, registers(n));
  driver.negotiate(0);
  for (std::uint16_t i = 0; i < queues; ++i) driver.set_queue(queue(n, i));
  driver.go();
}

// One block request, of a sector of zeroes to or from sector 1, as the `nth` of this device (from 0).
void block_request(Code& code, std::uint32_t n, std::uint32_t type, std::uint16_t nth) {
  constexpr std::uint32_t kRead = 0;
  GuestDriver driver(code, registers(n));
  const GuestQueue q = queue(n, 0);
  const std::uint32_t header = place(n, 12);
  driver.poke(header, type);
  driver.poke(header + 4, 0);
  driver.poke(header + 8, 1);
  driver.poke(header + 12, 0);
  driver.descriptor(q.table, 0, header, 16, 1, 1);
  driver.descriptor(q.table, 1, place(n, 13), 512, type == kRead ? 3 : 1, 2);
  driver.descriptor(q.table, 2, place(n, 14), 1, 2);
  driver.available_entry(q, nth, 0);
  driver.available_index(q, static_cast<std::uint16_t>(nth + 1));
  driver.kick(q);
  driver.wait_used(q, static_cast<std::uint16_t>(nth + 1));
}

void wait_for_capacity(Code& code, std::uint32_t n) {
  constexpr std::uint32_t kConfigurationSpace = 0x100;  // virtio 1.2, 4.2.2; starts with the capacity
  code.mov_edi(registers(n));
  const auto again = code.here();
  code.load_eax(kConfigurationSpace);
  code.cmp_eax(kSectorsAfterwards);
  code.jne(again);
}

// Uses two drives, a tap and a vsock, echoes a key, tells the boot timer; once both drives were exchanged
// writes them again, resets them, and the machine.
Code guest() {
  constexpr std::uint32_t kWriteRequest = 1;
  constexpr std::uint32_t kReadRequest = 0;
  Code code;
  code.map_devices();
  code.say("hello ");
  for (const std::uint32_t drive : {0U, 1U}) {
    set_up(code, drive, 1);
    block_request(code, drive, kReadRequest, 0);
    block_request(code, drive, kWriteRequest, 1);
  }
  set_up(code, 2, 3);     // vsock; with a tap, that comes before it
  code.out(0x3fa, 0x01);  // FIFO on
  code.out(0x3fc, 0x03);  // DTR, RTS
  code.say("key? ");
  const auto wait = code.here();
  code.in_al(0x3fd);
  code.test_al(0x01);
  code.je(wait);
  code.in_al(0x3f8);
  code.say_al();
  code.mov_rdi(vmm::x86_64::kBootTimer.value());
  code.store8(0, 123);
  for (const std::uint32_t drive : {0U, 1U}) {
    wait_for_capacity(code, drive);
    block_request(code, drive, kWriteRequest, 2);
    GuestDriver(code, registers(drive)).write(reg::kStatus, 0);
  }
  code.say(" bye");
  code.reset();
  code.stop();
  return code;
}

std::string busy() {
  Code code;
  code.say("busy");
  const auto again = code.here();
  code.jmp(again);
  return elf_of(code);
}

struct Setting {
  TemporaryFolder folder;
  std::string kernel = folder.file("kernel", elf_of(guest()));
  std::string first = folder.file("first", std::string(8 * 512, 'a'));
  std::string second = folder.file("second", std::string(8 * 512, 'b'));
  std::string third = folder.file("third", std::string(kSectorsAfterwards * 512, 'c'));
  std::string fourth = folder.file("fourth", std::string(kSectorsAfterwards * 512, 'd'));
  base::UniqueFd log;  // the reader of a FIFO

  // io_engine of the second drive: Async, where io_uring is to be had.
  static std::string second_engine() {
    static const bool uring = [] {
      const TemporaryFolder probe;
      VmmUnderTest vmm(probe, {"--no-api", "--config-file",
                               probe.file("config", R"({"boot-source": {"kernel_image_path": "x"},
        "drives": [{"drive_id": "d", "is_root_device": false, "path_on_host": ")" +
                                                        probe.file("d", std::string(512, 'x')) +
                                                        R"(", "io_engine": "Async"}]})")});
      vmm.wait();
      return vmm.errors().find("io_uring") == std::string::npos;
    }();
    return uring ? "Async" : "Sync";
  }

  void make_log() {
    REQUIRE(::mkfifo(folder.path("log").c_str(), 0600) == 0);
    log.reset(::open(folder.path("log").c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  }
  std::string logged() const {
    std::string text(65536, '\0');
    const ssize_t n = ::read(log.get(), text.data(), text.size());
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }

  json config() {
    return {
        {"boot-source", {{"kernel_image_path", kernel}, {"boot_args", ""}}},
        {"machine-config", {{"vcpu_count", 2}, {"mem_size_mib", 4}}},
        {"drives",
         json::array(
             {{{"drive_id", "d"}, {"is_root_device", false}, {"path_on_host", first}, {"io_engine", "Sync"}},
              {{"drive_id", "e"},
               {"is_root_device", false},
               {"path_on_host", second},
               {"io_engine", second_engine()}}})},
        {"vsock", {{"guest_cid", 3}, {"uds_path", folder.path("vsock")}}}};
  }
  // In the order that a client configures a machine.
  void configure(VmmUnderTest& vmm) {
    const json whole = config();
    CHECK(vmm.ask("PUT", "/logger", json{{"log_path", folder.path("log")}, {"level", "Debug"}}.dump()) ==
          "204");
    CHECK(vmm.ask("PUT", "/metrics", json{{"metrics_path", folder.path("metrics")}}.dump()) == "204");
    for (const char* section : {"boot-source", "machine-config", "vsock"}) {
      CHECK(vmm.ask("PUT", std::string("/") + section, whole[section].dump()) == "204");
    }
    for (const json& drive : whole["drives"]) {
      CHECK(vmm.ask("PUT", "/drives/" + drive["drive_id"].get<std::string>(), drive.dump()) == "204");
    }
  }
};

}  // namespace

TEST_CASE("with the filters on a machine is configured, runs, is paused, changed, asked, and ends") {
  if (!have_kvm()) return;
  Setting s;
  s.make_log();
  // For the VMM to have, as a jailer passes descriptors in.
  const base::UniqueFd passed(::open(s.third.c_str(), O_RDWR));
  VmmUnderTest vmm(s.folder, {"--api-sock", s.folder.path("api.sock"), "--boot-timer", "--id", "confined"});
  s.configure(vmm);
  CHECK(vmm.ask("PUT", "/mmds", R"({"a": "b"})") == "204");
  CHECK(vmm.ask("PUT", "/actions", R"({"action_type": "InstanceStart"})") == "204");
  vmm.wait_for([&] { return vmm.output() == "hello key? "; });
  CHECK(std::ranges::count(base::read_file(s.first).value(), '\0') == 0);  // what it wrote is what it read

  for (const char* state : {"Paused", "Paused", "Resumed", "Resumed", "Paused", "Resumed"}) {
    CHECK(vmm.ask("PATCH", "/vm", json{{"state", state}}.dump()) == "204");
  }
  CHECK_THAT(vmm.ask("GET", "/"), Contains("\"Running\""));
  CHECK_THAT(vmm.ask("GET", "/vm/config"), Contains("uds_path"));
  CHECK_THAT(vmm.ask("GET", "/metrics"), Contains("mayfly_block_"));
  CHECK_THAT(vmm.ask("GET", "/mmds"), Contains("\"b\""));
  CHECK(vmm.ask("PATCH", "/mmds", R"({"c": "d"})") == "204");
  CHECK(vmm.ask("PUT", "/mmds", json{{"large", std::string(40'000, 'x')}}.dump()) == "204");
  CHECK(vmm.ask("PUT", "/actions", R"({"action_type": "FlushMetrics"})") == "204");
  CHECK(json::parse(vmm.read("metrics")).contains("block_d"));
  CHECK(vmm.ask("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})") == "204");
  // Refused: exceptions, errors, lines in the log.
  CHECK_THAT(vmm.ask("PUT", "/machine-config", "{"), Contains("400"));
  CHECK_THAT(vmm.ask("PUT", "/drives/x", R"({"drive_id": "x"})"), Contains("400"));
  CHECK_THAT(vmm.ask("PATCH", "/drives/d", R"({"drive_id": "d", "path_on_host": "/no/such/file"})"),
             Contains("No such file"));
  CHECK_THAT(vmm.ask("PATCH", "/drives/e", R"({"drive_id": "e", "path_on_host": "/"})"),
             Contains("a folder"));
  CHECK_THAT(vmm.ask("GET", "/nothing"), Contains("404") || Contains("400"));
  CHECK(vmm.ask("PATCH", "/drives/d",
                R"({"drive_id": "d", "rate_limiter": {"ops": {"size": 1000, "refill_time": 10}}})") == "204");
  CHECK_THAT(vmm.ask("GET", "/version"), Contains("firecracker_version"));

  vmm.type("k");
  vmm.wait_for([&] { return vmm.output() == "hello key? k"; });
  CHECK(vmm.ask("PATCH", "/drives/d",
                json{{"drive_id", "d"}, {"path_on_host", fmt::format("/dev/fd/{}", passed.get())}}.dump()) ==
        "204");
  CHECK(vmm.ask("PATCH", "/drives/e", json{{"drive_id", "e"}, {"path_on_host", s.fourth}}.dump()) == "204");
  INFO(vmm.errors());
  CHECK(vmm.wait() == 0);
  CHECK(vmm.output() == "hello key? k bye");
  const std::string log = s.logged();
  CHECK_THAT(log, Contains("Guest-boot-time") && Contains("the guest asked for a reset") &&
                      !Contains("was stopped"));
  CHECK(vmm.errors().empty());
  CHECK_FALSE(std::filesystem::exists(s.folder.path("api.sock")));
  CHECK_FALSE(std::filesystem::exists(s.folder.path("vsock")));
  // What the guest wrote after the exchange, and nothing else.
  for (const std::string& file : {s.third, s.fourth}) {
    const std::string content = base::read_file(file).value();
    CHECK(content.size() == kSectorsAfterwards * 512);
    CHECK(content.substr(512, 512) == std::string(512, file == s.third ? 'a' : 'b'));
    CHECK(content.substr(1024) == std::string(content.size() - 1024, file == s.third ? 'c' : 'd'));
  }
}

TEST_CASE("with the filters on a machine from a file runs, with and without a control socket") {
  if (!have_kvm()) return;
  Setting s;
  s.kernel = s.folder.file("busy", busy());
  const std::string config = s.folder.file("config", s.config().dump());
  SECTION("without") {
    VmmUnderTest vmm(s.folder, {"--no-api", "--config-file", config});
    vmm.wait_for([&] { return vmm.output() == "busy"; });
    vmm.signal(SIGTERM);
    CHECK(vmm.wait() == 1000 + SIGTERM);
    CHECK(vmm.errors().empty());
  }
  SECTION("with") {
    VmmUnderTest vmm(s.folder, {"--api-sock", s.folder.path("api.sock"), "--config-file", config});
    vmm.wait_for([&] { return vmm.output() == "busy"; });
    CHECK_THAT(vmm.ask("GET", "/"), Contains("\"Running\""));
    vmm.signal(SIGINT);
    CHECK(vmm.wait() == 1000 + SIGINT);
    CHECK(vmm.errors().empty());
  }
  CHECK_FALSE(std::filesystem::exists(s.folder.path("vsock")));
}

TEST_CASE("with the filters on guests end by panic, triple fault and reset") {
  if (!have_kvm()) return;
  Setting s;
  Code fault;
  fault.ud2();
  Code panic;
  panic.mov_edi(0x472);
  panic.store16(0, vmm::x86_64::kBiosWarmReset);
  panic.reset();
  panic.stop();
  for (const auto& [code, status] : {std::pair{&fault, 11}, std::pair{&panic, 10}}) {
    s.kernel = s.folder.file("ends", elf_of(*code));
    VmmUnderTest vmm(s.folder, {"--no-api", "--config-file", s.folder.file("config", s.config().dump())});
    CHECK(vmm.wait() == status);
    CHECK_THAT(vmm.errors(), !Contains("was stopped"));
  }
}

// What keeps the tests above from passing with no filter on at all.
TEST_CASE("each thread of a running machine has its filter, and new privileges are forbidden") {
  if (!have_kvm()) return;
  Setting s;
  s.kernel = s.folder.file("busy", busy());
  const auto state_of = [&](const std::vector<std::string>& more) {
    std::vector<std::string> arguments = {"--api-sock", s.folder.path("api.sock"), "--config-file",
                                          s.folder.file("config", s.config().dump())};
    arguments.insert(arguments.end(), more.begin(), more.end());
    VmmUnderTest vmm(s.folder, arguments);
    vmm.wait_for([&] { return vmm.output().find("busy") != std::string::npos; });
    std::map<std::string, std::string> state;
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(vmm.pid()) + "/task")) {
      std::ifstream status(task.path() / "status");
      std::string name;
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("Name:\t")) name = line.substr(6);
        if (line.starts_with("Seccomp:") || line.starts_with("NoNewPrivs:")) state[name] += line + ";";
      }
    }
    std::filesystem::remove(s.folder.path("out"));
    std::filesystem::remove(s.folder.path("api.sock"));
    std::filesystem::remove(s.folder.path("vsock"));
    return state;
  };
  const auto confined = state_of({});
  for (const char* name : {"vmm", "api", "vcpu0", "vcpu1"}) {
    REQUIRE(confined.contains(name));
    CHECK(confined.at(name) == "NoNewPrivs:\t1;Seccomp:\t2;");
  }
  const auto free = state_of({"--no-seccomp"});
  CHECK(free.at("vmm") == "NoNewPrivs:\t0;Seccomp:\t0;");
  CHECK_THAT(base::read_file(s.folder.path("err")).value(), Contains("NO SYSTEM CALL FILTER is on"));
}

TEST_CASE("filters of one's own are used, and what is none is refused") {
  if (!have_kvm()) return;
  Setting s;
  s.kernel = s.folder.file("busy", busy());
  const std::string config = s.folder.file("config", s.config().dump());
  const auto compile = [&](const std::string& vcpu) {
    std::string command = MAYFLY_FILTER " compile -o " + s.folder.path("filters");
    for (const char* thread : {"vmm", "api"})
      command += std::string(" " MAYFLY_POLICIES "/") + thread + ".policy";
    return std::system((command + " " + vcpu + " 2>" + s.folder.path("complaint")).c_str());
  };
  REQUIRE(compile(MAYFLY_POLICIES "/vcpu.policy") == 0);
  {
    VmmUnderTest vmm(s.folder,
                     {"--no-api", "--config-file", config, "--seccomp-filter", s.folder.path("filters")});
    vmm.wait_for([&] { return vmm.output() == "busy"; });
    vmm.signal(SIGTERM);
    CHECK(vmm.wait() == 1000 + SIGTERM);
    CHECK(vmm.errors().empty());
  }
  // A vCPU's thread that may not run a guest: the first to try is the end.
  std::string narrow = base::read_file(MAYFLY_POLICIES "/vcpu.policy").value();
  narrow.replace(narrow.find("request == KVM_RUN "), 18, "request == 0xae00  ");
  REQUIRE(compile(s.folder.file("narrow.policy", narrow)) == 0);
  {
    VmmUnderTest vmm(s.folder,
                     {"--no-api", "--config-file", config, "--seccomp-filter", s.folder.path("filters")});
    CHECK(vmm.wait() == jailer::seccomp::kExitForbiddenCall);
    CHECK_THAT(vmm.errors(), Contains("the vcpu thread was stopped at the system call ioctl (16)"));
  }
  std::filesystem::remove(s.folder.path("vsock"));  // it was stopped on the spot
  CHECK(compile(s.folder.file("wrong.policy", "thread vcpu\nat-most 1\nread\n")) != 0);
  CHECK_THAT(base::read_file(s.folder.path("complaint")).value(),
             Contains("wrong.policy:3: a rule has a reason"));
}

TEST_CASE("filters that are none stop the start with one line") {
  Setting s;
  const auto refused = [&](const std::vector<std::string>& flags) {
    std::vector<std::string> arguments = {"--api-sock", s.folder.path("api.sock")};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    std::filesystem::remove(s.folder.path("err"));
    VmmUnderTest vmm(s.folder, arguments);
    const int status = vmm.wait();
    return std::to_string(status) + " " + vmm.errors();
  };
  CHECK(refused({"--seccomp-filter", "/no/such/file"}) ==
        "1 mayfly-vmm: --seccomp-filter: open /no/such/file: No such file or directory\n");
  const std::string text = s.folder.file("text", "a text");
  CHECK(refused({"--seccomp-filter", text}) ==
        "1 mayfly-vmm: --seccomp-filter: " + text + ": these are no filters of mayfly-filter's\n");
  CHECK_THAT(refused({"--seccomp-filter", text, "--no-seccomp"}),
             Contains("2 mayfly-vmm: --") && Contains("excludes"));
}
