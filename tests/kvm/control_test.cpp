// The control socket's operations on a machine that runs.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <thread>

#include "api/control_queue.h"
#include "api/controller.h"
#include "api/router.h"
#include "base/file.h"
#include "tests/support/require_kvm.h"
#include "tests/support/tiny_machine.h"
#include "vmm/x86_64/layout.h"

using namespace mayfly;
using namespace mayfly::test;
using Catch::Contains;
using nlohmann::json;

namespace {

constexpr std::uint32_t kNewSectors = 24;

// Tells the boot timer, then waits for its disk to have kNewSectors, and resets.
Code guest() {
  constexpr std::uint32_t kConfigurationSpace = 0x100;  // virtio 1.2, 4.2.2; starts with the capacity
  Code code;
  code.map_devices();
  code.mov_rdi(vmm::x86_64::kBootTimer.value());
  code.store8(0, 123);
  code.mov_rdi(vmm::x86_64::virtio_mmio_address(0).value());
  const auto again = code.here();
  code.load_eax(kConfigurationSpace);
  code.cmp_eax(kNewSectors);
  code.jne(again);
  code.reset();
  code.stop();
  return code;
}

struct Control {
  TemporaryFolder folder;
  std::unique_ptr<base::EventLoop> loop = base::EventLoop::create().value();
  std::optional<vmm::Exit> exit;
  std::atomic<bool> ready = false;
  api::Controller controller{"t-1", initial(), std::make_shared<mmds::Store>(), *loop,
                             [this](const vmm::Exit& e) {
                               exit = e;
                               loop->stop();
                             }};
  std::string kernel = folder.file("kernel", elf_of(guest()));
  std::string disk = folder.file("disk", std::string(8 * 512, 'a'));
  std::string larger = folder.file("larger", std::string(kNewSectors * 512, 'b'));

  api::Configuration initial() {
    api::Configuration configuration;
    configuration.vm.boot_timer = true;
    configuration.vm.on_guest_ready = [this] { ready = true; };
    configuration.vm.console = {.input = -1, .output = -1};
    return configuration;
  }
  // What is answered, or "fault: " and its text.
  std::string ask(std::string_view method, std::string_view path, const json& body = {}) {
    const auto task = api::route(method, path, method == "GET" ? "" : body.dump());
    const auto answer = task ? (*task)(controller) : std::unexpected(task.error());
    return answer ? answer->content : "fault: " + answer.error().message;
  }
  json get(std::string_view path) { return json::parse(ask("GET", path)); }
  void configure() {
    REQUIRE(ask("PUT", "/boot-source", {{"kernel_image_path", kernel}, {"boot_args", ""}}).empty());
    REQUIRE(ask("PUT", "/machine-config", {{"vcpu_count", 1}, {"mem_size_mib", 4}}).empty());
    REQUIRE(ask("PUT", "/drives/d", {{"drive_id", "d"}, {"is_root_device", false}, {"path_on_host", disk}})
                .empty());
    REQUIRE(ask("PUT", "/metrics", {{"metrics_path", folder.path("metrics")}}).empty());
  }
};

}  // namespace

TEST_CASE("a machine is configured, started, paused, changed and ends by way of the control socket") {
  if (!have_kvm()) return;
  Control c;
  CHECK(c.get("/")["state"] == "Not started");
  CHECK_THAT(c.ask("PUT", "/actions", {{"action_type", "InstanceStart"}}),
             Contains("PUT /boot-source first"));
  c.configure();
  CHECK(c.get("/vm/config")["drives"][0]["path_on_host"] == c.disk);
  for (const char* state : {"Paused", "Resumed"}) {
    CHECK_THAT(c.ask("PATCH", "/vm", {{"state", state}}), Contains("not possible before"));
  }
  for (const char* action : {"SendCtrlAltDel", "FlushMetrics"}) {
    CHECK_THAT(c.ask("PUT", "/actions", {{"action_type", action}}), Contains("not possible before"));
  }
  CHECK_THAT(c.ask("PATCH", "/drives/d", {{"drive_id", "d"}}), Contains("not possible before"));

  REQUIRE(c.ask("PUT", "/actions", {{"action_type", "InstanceStart"}}).empty());
  CHECK(c.get("/")["state"] == "Running");
  CHECK_THAT(c.ask("PUT", "/actions", {{"action_type", "InstanceStart"}}), Contains("not possible after"));
  CHECK_THAT(c.ask("PUT", "/boot-source", {{"kernel_image_path", c.kernel}}), Contains("not possible after"));
  CHECK_THAT(c.ask("PATCH", "/machine-config", {{"vcpu_count", 2}}), Contains("not possible after"));
  CHECK_THAT(
      c.ask("PUT", "/drives/d", {{"drive_id", "d"}, {"is_root_device", false}, {"path_on_host", c.disk}}),
      Contains("not possible after"));
  CHECK_THAT(c.ask("PUT", "/vsock", {{"guest_cid", 3}, {"uds_path", "v"}}), Contains("not possible after"));

  // Both ways twice: the second time there is nothing to do.
  for (const char* state : {"Paused", "Paused", "Resumed", "Resumed", "Paused"}) {
    CHECK(c.ask("PATCH", "/vm", {{"state", state}}).empty());
    CHECK(c.get("/")["state"] == (state == std::string("Paused") ? "Paused" : "Running"));
  }
  CHECK_THAT(c.ask("PUT", "/actions", {{"action_type", "SendCtrlAltDel"}}), Contains("paused"));
  CHECK(c.ask("PATCH", "/vm", {{"state", "Resumed"}}).empty());
  CHECK(c.ask("PUT", "/actions", {{"action_type", "SendCtrlAltDel"}}).empty());

  CHECK_THAT(c.ask("PATCH", "/drives/e", {{"drive_id", "e"}}), Contains("no drive \"e\""));
  CHECK_THAT(c.ask("PATCH", "/drives/d", {{"drive_id", "d"}, {"path_on_host", c.folder.path("none")}}),
             Contains("none"));
  CHECK(c.get("/vm/config")["drives"][0]["path_on_host"] == c.disk);
  const json limiter = {{"bandwidth", {{"size", 1000}, {"refill_time", 100}}}};
  CHECK(c.ask("PATCH", "/drives/d", {{"drive_id", "d"}, {"rate_limiter", limiter}}).empty());
  CHECK(c.get("/vm/config")["drives"][0]["rate_limiter"] == limiter);
  CHECK(c.ask("PUT", "/actions", {{"action_type", "FlushMetrics"}}).empty());
  CHECK(json::parse(base::read_file(c.folder.path("metrics")).value()).contains("block_d"));
  CHECK_THAT(c.ask("GET", "/metrics"),
             Contains("mayfly_block_") && Contains("{instance=\"t-1\",device=\"d\"} "));

  CHECK_FALSE(c.exit);
  CHECK(c.ask("PATCH", "/drives/d", {{"drive_id", "d"}, {"path_on_host", c.larger}}).empty());
  CHECK(c.get("/vm/config")["drives"][0]["path_on_host"] == c.larger);
  REQUIRE(c.loop->run().has_value());
  REQUIRE(c.exit);
  CHECK(c.exit->reason == vmm::ExitReason::kReset);
  CHECK(c.ready);
}

TEST_CASE("a start that fails can be put right and tried again") {
  if (!have_kvm()) return;
  Control c;
  c.configure();
  REQUIRE(
      c.ask("PUT", "/network-interfaces/n", {{"iface_id", "n"}, {"host_dev_name", "no-such-tap"}}).empty());
  CHECK_THAT(c.ask("PUT", "/actions", {{"action_type", "InstanceStart"}}), Contains("no-such-tap"));
  CHECK(c.get("/")["state"] == "Not started");
  // Interfaces cannot be taken away, so this one stays wrong; another controller is not affected.
  Control other;
  other.configure();
  other.disk = other.larger;
  REQUIRE(other
              .ask("PUT", "/drives/d",
                   {{"drive_id", "d"}, {"is_root_device", false}, {"path_on_host", other.larger}})
              .empty());
  CHECK(other.get("/vm/config")["drives"].size() == 1);
  REQUIRE(other.ask("PUT", "/actions", {{"action_type", "InstanceStart"}}).empty());
  REQUIRE(other.loop->run().has_value());
  CHECK(other.exit);
}

TEST_CASE("tasks of other threads are done on the machine's, or fail when it has ended") {
  Control c;
  api::ControlQueue queue(*c.loop, c.controller);
  const auto main_thread = std::this_thread::get_id();
  std::atomic<int> done = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (;;) {
        const auto answer = queue.call([&](api::Controller&) -> base::Result<api::Answer> {
          if (std::this_thread::get_id() == main_thread && ++done == 1000) c.loop->stop();
          return api::Answer{"done"};
        });
        if (answer && answer->content == "done") continue;
        if (answer.error().message == "the machine has ended") ++refused;
        return;
      }
    });
  }
  REQUIRE(c.loop->run().has_value());
  queue.close();
  for (std::thread& thread : threads) thread.join();
  CHECK(done >= 1000);
  CHECK(refused == 4);
}
