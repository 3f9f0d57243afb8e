#include "api/router.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/temporary_folder.h"

using namespace mayfly;
using api::route;
using nlohmann::json;

namespace {

// What the router's tasks act on; nothing is started.
struct Instance {
  std::unique_ptr<base::EventLoop> loop = std::move(*base::EventLoop::create());
  std::shared_ptr<mmds::Store> metadata = std::make_shared<mmds::Store>();
  api::Controller controller{"router-test", {}, metadata, *loop, [](const vmm::Exit&) {}};

  base::Result<api::Answer> call(std::string_view method, std::string_view path, std::string_view body = {}) {
    auto task = route(method, path, body);
    if (!task) return std::unexpected(std::move(task).error());
    return (*task)(controller);
  }
  std::string fault(std::string_view method, std::string_view path, std::string_view body = {}) {
    const auto answer = call(method, path, body);
    return answer ? "" : answer.error().message;
  }
};

std::string refusal(std::string_view method, std::string_view path, std::string_view body = {}) {
  const auto task = route(method, path, body);
  return task ? "" : task.error().message;
}

// "GET /mmds" for each line "  /mmds:" that has "    get:" below it, as the description is written.
std::set<std::string> described_operations() {
  std::ifstream file(MAYFLY_OPENAPI);
  REQUIRE(file.is_open());
  std::set<std::string> all;
  std::string path;
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(' ')) inside = line == "paths:";
    if (!inside || !line.ends_with(':')) continue;
    if (line.starts_with("  /")) path = line.substr(2, line.size() - 3);
    for (const char* method : {"GET", "PUT", "PATCH", "POST", "DELETE", "HEAD", "OPTIONS", "TRACE"}) {
      std::string key = fmt::format("    {}:", method);
      std::ranges::transform(key, key.begin(),
                             [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (line == key) all.insert(fmt::format("{} {}", method, path));
    }
  }
  return all;
}

}  // namespace

TEST_CASE("what is served is what the description has") {
  std::set<std::string> served;
  for (const api::Operation& operation : api::operations()) {
    served.insert(fmt::format("{} {}", operation.method, operation.path));
  }
  CHECK(served.size() == api::operations().size());
  CHECK(served == described_operations());
}

TEST_CASE("each operation has a task, and those that can be done before the start are done") {
  const test::TemporaryFolder folder;
  const std::string disk = folder.file("disk", std::string(4096, '\0'));
  const auto path = [](const char* format, const std::string& name) {
    return fmt::format(fmt::runtime(format), fmt::arg("path", name));
  };
  struct Case {
    const char* method;
    const char* path;
    std::string body;
    const char* fault = "";  // part of it
  };
  const std::vector<Case> cases = {
      {"PUT", "/machine-config", R"({"vcpu_count": 2, "mem_size_mib": 64})"},
      {"PATCH", "/machine-config", R"({"mem_size_mib": 96})"},
      {"PUT", "/boot-source", path(R"({{"kernel_image_path": "{path}"}})", disk)},
      {"PUT", "/drives/a_1",
       path(R"({{"drive_id": "a_1", "is_root_device": true, "path_on_host": "{path}"}})", disk)},
      {"PUT", "/network-interfaces/eth0", R"({"iface_id": "eth0", "host_dev_name": "tap0"})"},
      {"PUT", "/vsock", R"({"guest_cid": 3, "uds_path": "/v"})"},
      {"PUT", "/logger", path(R"({{"log_path": "{path}", "level": "Error"}})", folder.path("log"))},
      {"PUT", "/metrics", path(R"({{"metrics_path": "{path}"}})", folder.path("metrics"))},
      {"PUT", "/mmds/config", R"({"network_interfaces": ["eth0"]})"},
      {"PUT", "/mmds", R"({"a": {"b": 1}})"},
      {"PATCH", "/mmds", R"({"a": {"c": 2}})"},
      {"GET", "/", ""},
      {"GET", "/version", ""},
      {"GET", "/vm/config", ""},
      {"GET", "/machine-config", ""},
      {"GET", "/metrics", ""},
      {"GET", "/mmds", ""},
      {"PATCH", "/drives/a_1", R"({"drive_id": "a_1"})", "before the machine is started"},
      {"PATCH", "/network-interfaces/eth0", R"({"iface_id": "eth0"})", "before the machine is started"},
      {"PATCH", "/vm", R"({"state": "Paused"})", "Paused is not possible before the machine is started"},
      {"PUT", "/actions", R"({"action_type": "FlushMetrics"})", "before the machine is started"},
  };
  CHECK(cases.size() == api::operations().size());
  Instance instance;
  for (const Case& c : cases) {
    CAPTURE(c.method, c.path, c.body);
    const auto answer = instance.call(c.method, c.path, c.body);
    if (!answer) CHECK(*c.fault != '\0');
    if (!answer) CHECK_THAT(answer.error().message, Catch::Contains(c.fault));
    if (answer) CHECK(answer->content.empty() == (std::string_view(c.method) != "GET"));
  }
  const vmm::VmConfig& vm = instance.controller.configuration().vm;
  CHECK(vm.machine.vcpu_count == 2);
  CHECK(vm.machine.mem_size_mib == 96);
  CHECK(vm.drives.size() == 1);
  CHECK(json::parse(instance.call("GET", "/mmds")->content) == json::parse(R"({"a": {"b": 1, "c": 2}})"));
  CHECK(json::parse(instance.call("GET", "/")->content)["state"] == "Not started");
  CHECK(instance.call("GET", "/metrics")->type.starts_with("text/plain"));
  CHECK_THAT(instance.fault("PATCH", "/vm", R"({"state": "Resumed"})"), Catch::Contains("Resumed is not"));
  CHECK_THAT(instance.fault("PUT", "/actions", R"({"action_type": "SendCtrlAltDel"})"),
             Catch::Contains("SendCtrlAltDel is not possible before"));
}

TEST_CASE("a start without a kernel, and a second metrics file, are refused") {
  Instance instance;
  CHECK_THAT(instance.fault("PUT", "/actions", R"({"action_type": "InstanceStart"})"),
             Catch::Contains("PUT /boot-source first"));
  CHECK(instance.controller.state() == "Not started");
  const test::TemporaryFolder folder;
  const std::string body = json{{"metrics_path", folder.path("metrics")}}.dump();
  CHECK(instance.call("PUT", "/metrics", body));
  CHECK_THAT(instance.fault("PUT", "/metrics", body), Catch::Contains("metrics.metrics_path: they go to"));
}

TEST_CASE("a file that cannot be opened is named with its field") {
  Instance instance;
  using Catch::Contains;
  CHECK_THAT(instance.fault("PUT", "/boot-source", R"({"kernel_image_path": "/none/k"})"),
             Contains("boot-source.kernel_image_path: ") && Contains("/none/k"));
  CHECK_THAT(instance.fault("PUT", "/logger", R"({"log_path": "/none/l"})"),
             Contains("logger.log_path: ") && Contains("/none/l"));
  CHECK_THAT(instance.fault("PUT", "/metrics", R"({"metrics_path": "/none/m"})"),
             Contains("metrics.metrics_path: ") && Contains("/none/m"));
  CHECK_THAT(instance.fault("PUT", "/drives/a",
                            R"({"drive_id": "a", "is_root_device": true, "path_on_host": "/none/d"})"),
             Contains("drive.path_on_host: ") && Contains("/none/d"));
}

TEST_CASE("a machine takes no more devices than it has room for") {
  Instance instance;
  const auto add = [&](int i) {
    const std::string id = fmt::format("eth{}", i);
    const std::string body = json{{"iface_id", id}, {"host_dev_name", fmt::format("tap{}", i)}}.dump();
    return instance.fault("PUT", "/network-interfaces/" + id, body);
  };
  int added = 0;
  while (added < 1000 && add(added).empty()) ++added;
  CHECK(added == 19);
  CHECK_THAT(add(added), Catch::Contains("room for 19 devices"));
  CHECK_THAT(instance.fault("PUT", "/vsock", R"({"guest_cid": 3, "uds_path": "/v"})"),
             Catch::Contains("room for 19 devices"));
  CHECK(instance.controller.configuration().vm.network_interfaces.size() == 19);
  CHECK_FALSE(instance.controller.configuration().vm.vsock.has_value());
  CHECK(add(7).empty());  // takes the place of the one there is
}

TEST_CASE("a method that a path does not have is refused with those that it has") {
  CHECK(refusal("PUT", "/", "{}") == "PUT /: here it is GET");
  CHECK(refusal("DELETE", "/mmds") == "DELETE /mmds: here it is GET or PUT or PATCH");
  CHECK(refusal("GET", "/drives/a") == "GET /drives/a: here it is PUT or PATCH");
  CHECK(refusal("PATCH", "/actions", "{}") == "PATCH /actions: here it is PUT");
  for (const char* method : {"", "get", "HEAD", "OPTIONS", "PRI"}) {
    CAPTURE(method);
    CHECK_THAT(refusal(method, "/version"), Catch::EndsWith("/version: here it is GET"));
  }
}

TEST_CASE("a path that there is not is refused, and shown not further than a line") {
  for (const char* path :
       {"", "*", "version", "//version", "/version/", "/Version", "/drives", "/drives/", "/drives/a/b",
        "/vm/", "/machine-config/1", "/balloons", "/../version", "/drives/a/", "/mmds/config/x"}) {
    for (const char* method : {"GET", "PUT", "PATCH", "DELETE"}) {
      CAPTURE(method, path);
      CHECK_THAT(refusal(method, path, "{}"), Catch::EndsWith(": there is no such operation"));
    }
  }
  CHECK(refusal("GET", "/" + std::string(8000, 'x')).size() < 200);
  CHECK(refusal("GET", "/drives/" + std::string(8000, 'x')).size() < 200);
  CHECK(refusal("PATCH", "/drives/" + std::string(8000, 'x'), R"({"drive_id": "a"})").size() < 200);
}

TEST_CASE("what Firecracker has and Mayfly has not is refused with the reason") {
  const std::vector<std::pair<const char*, const char*>> cases = {
      {"/balloon", "balloon would"},           {"/balloon/statistics", "balloon would"},
      {"/entropy", "no entropy device"},       {"/pmem/p0", "persistent memory"},
      {"/hotplug/memory", "before the start"}, {"/cpu-config", "CPU features"},
      {"/serial", "standard input"},           {"/snapshot/create", "no snapshots"},
      {"/snapshot/load", "no snapshots"},
  };
  for (const auto& [path, expected] : cases) {
    for (const char* method : {"GET", "PUT", "PATCH"}) {
      CAPTURE(method, path);
      CHECK_THAT(refusal(method, path, "{}"), Catch::Contains(expected));
    }
  }
}

TEST_CASE("the id of the body is the path's") {
  const char* drive = R"({"drive_id": "a", "is_root_device": false, "path_on_host": "/d"})";
  CHECK(route("PUT", "/drives/a", drive));
  CHECK(refusal("PUT", "/drives/b", drive) == R"(drive.drive_id: "a" is not the "b" of the path)");
  CHECK(refusal("PATCH", "/drives/b", R"({"drive_id": "a"})") ==
        R"(drive.drive_id: "a" is not the "b" of the path)");
  const char* net = R"({"iface_id": "eth0", "host_dev_name": "tap0"})";
  CHECK(route("PUT", "/network-interfaces/eth0", net));
  CHECK(refusal("PUT", "/network-interfaces/eth1", net) ==
        R"(network-interface.iface_id: "eth0" is not the "eth1" of the path)");
  CHECK(refusal("PATCH", "/network-interfaces/eth1", R"({"iface_id": "eth0"})") ==
        R"(network-interface.iface_id: "eth0" is not the "eth1" of the path)");
  for (const char* id : {"a-b", "a b", "\\u00e9", "", "a.b"}) {
    CAPTURE(id);
    CHECK_THAT(refusal("PATCH", "/drives/x", fmt::format(R"({{"drive_id": "{}"}})", id)),
               Catch::Contains("letters, digits and _"));
  }
}

TEST_CASE("names that no tap and no socket can have are refused") {
  const auto tap = [](const std::string& name) {
    return refusal("PUT", "/network-interfaces/e", json{{"iface_id", "e"}, {"host_dev_name", name}}.dump());
  };
  CHECK(tap("tap-0.1_x").empty());
  CHECK(tap(std::string(15, 'a')).empty());
  for (const std::string& name :
       {std::string(), std::string(16, 'a'), std::string("a/b"), std::string("a b"), std::string("..")}) {
    CAPTURE(name);
    CHECK_THAT(tap(name), Catch::StartsWith("network-interface.host_dev_name: "));
  }
  const auto vsock = [](const std::string& path) {
    return refusal("PUT", "/vsock", json{{"guest_cid", 3}, {"uds_path", path}}.dump());
  };
  CHECK(vsock(std::string(107, 'a')).empty());
  CHECK(vsock("") == "vsock.uds_path: the path is empty");
  CHECK(vsock(std::string(108, 'a')) ==
        "vsock.uds_path: a socket's path has at most 107 bytes, and this one 108");
}

TEST_CASE("bodies that are no JSON, or too much of it, are refused") {
  using Catch::Contains;
  CHECK(refusal("GET", "/version", "{}") == "GET /version: a GET has no body");
  for (const char* body :
       {"", " ", "{", "nul", "{}x", "{'a': 1}", "{\"action_type\": \"\xff\"}", "\xef\xbb", "{\"a\": 01}"}) {
    CAPTURE(body);
    CHECK(refusal("PUT", "/actions", body) == "the request's body is not valid JSON");
    CHECK(refusal("PUT", "/mmds", body) == "the request's body is not valid JSON");
  }
  for (const char* body : {"[]", "7", "\"x\"", "true", "null"}) {
    CAPTURE(body);
    CHECK_THAT(refusal("PUT", "/actions", body), Contains("action: expected a JSON object, got "));
  }
  for (const std::size_t depth : {129U, 100'000U}) {
    const std::string deep = std::string(depth, '[') + std::string(depth, ']');
    CHECK_THAT(refusal("PUT", "/mmds", deep), Contains("nested more than 128"));
    CHECK_THAT(refusal("PUT", "/actions", R"({"action_type": )" + deep + "}"),
               Contains("nested more than 128"));
  }
  CHECK_THAT(refusal("PUT", "/actions", R"({"action_type": "Explode"})"),
             Contains("action.action_type: \"Explode\""));
  CHECK_THAT(refusal("PUT", "/actions", R"({"action_type": "InstanceStart", "now": true})"),
             Contains("action.now: unknown field"));
  CHECK_THAT(refusal("PUT", "/actions", R"({"action_type": "Instance\u0000Start"})"),
             Contains("without NUL"));
}

TEST_CASE("of a name that an object has twice the last one counts") {
  Instance instance;
  CHECK(instance.call("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 64, "vcpu_count": 3})"));
  CHECK(instance.controller.configuration().vm.machine.vcpu_count == 3);
  CHECK_THAT(
      instance.fault("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 64, "vcpu_count": 33})"),
      Catch::Contains("got 33"));
}

TEST_CASE("numbers that are too large for any field are refused") {
  for (const char* number :
       {"18446744073709551616", "-9223372036854775809", "1e400", "-1e400", "1e3", "2.0", "-0"}) {
    CAPTURE(number);
    const std::string fault =
        refusal("PUT", "/machine-config", fmt::format(R"({{"vcpu_count": 1, "mem_size_mib": {}}})", number));
    const bool refused = fault.starts_with("machine-config.mem_size_mib: expected a whole number") ||
                         fault == "the request's body is not valid JSON";
    CHECK(refused);
  }
  const std::string digits(50'000, '9');
  CHECK_FALSE(route("PUT", "/machine-config", R"({"vcpu_count": 1, "mem_size_mib": )" + digits + "}"));
  CHECK(route("PUT", "/drives/a", R"({"drive_id": "a", "is_root_device": false, "path_on_host": "/d",
    "rate_limiter": {"ops": {"size": 18446744073709551615, "refill_time": 1000000000}}})"));
}
