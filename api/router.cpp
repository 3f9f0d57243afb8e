#include "api/router.h"

#include <array>
#include <nlohmann/json.hpp>

#include "api/fields.h"
#include "api/logging_json.h"
#include "api/machine_json.h"
#include "api/mmds_json.h"
#include "api/prometheus.h"
#include "base/json.h"

namespace mayfly::api {

using base::fail;
using base::Result;
using base::Status;
using nlohmann::json;
using namespace std::string_view_literals;

namespace {

// The version of Firecracker's control socket that this one follows.
constexpr std::string_view kProtocolVersion = "1.17.0";

struct Call {
  std::string_view id;    // what stands for {id} in the path
  std::string_view text;  // the body as it came
  json body;              // of a PUT or PATCH
};

Task asks(std::function<json(const Controller&)> question) {
  return [question = std::move(question)](Controller& controller) -> Result<Answer> {
    return Answer{base::to_text(question(controller))};
  };
}

Task does(std::function<Status(Controller&)> work) {
  return [work = std::move(work)](Controller& controller) -> Result<Answer> {
    TRY(work(controller));
    return Answer{};
  };
}

// The id in the body is the one in the path.
Status check_id(const Call& call, std::string_view field, std::string_view id) {
  if (id == call.id) return {};
  return fail("{}: \"{}\" is not the \"{}\" of the path", field, id, call.id.substr(0, 100));
}

// --- Any time

Result<Task> get_instance(const Call& /*call*/) {
  return asks([](const Controller& controller) -> json {
    return {{"app_name", "Mayfly"},
            {"id", controller.id()},
            {"state", controller.state()},
            {"vmm_version", MAYFLY_VERSION}};
  });
}

Result<Task> get_version(const Call& /*call*/) {
  return asks([](const Controller& /*controller*/) -> json {
    return {{"firecracker_version", kProtocolVersion}};
  });
}

Result<Task> get_configuration(const Call& /*call*/) {
  return asks([](const Controller& controller) { return to_json(controller.configuration()); });
}

Result<Task> get_machine_config(const Call& /*call*/) {
  return asks([](const Controller& controller) { return to_json(controller.configuration().vm.machine); });
}

Result<Task> get_metrics(const Call& /*call*/) {
  return Task([](Controller& controller) -> Result<Answer> {
    return Answer{prometheus_text(controller.metric_groups(), controller.id()), kPrometheusType};
  });
}

Result<Task> get_mmds(const Call& /*call*/) {
  return Task([](Controller& controller) -> Result<Answer> { return Answer{controller.metadata().get()}; });
}

Result<Task> put_mmds(const Call& call) {
  return does(
      [text = std::string(call.text)](Controller& controller) { return controller.metadata().put(text); });
}

Result<Task> patch_mmds(const Call& call) {
  return does(
      [text = std::string(call.text)](Controller& controller) { return controller.metadata().patch(text); });
}

// --- Before the start

Result<Task> put_boot_source(const Call& call) {
  return does([boot = TRY(parse_boot_source(call.body))](Controller& controller) {
    return controller.put_boot_source(boot);
  });
}

Result<Task> put_machine_config(const Call& call) {
  return does([machine = TRY(parse_machine_config(call.body))](Controller& controller) {
    return controller.put_machine_config(machine);
  });
}

// What is absent stays, so only the controller's thread can tell what comes of it.
Result<Task> patch_machine_config(const Call& call) {
  return does([body = call.body](Controller& controller) -> Status {
    return controller.put_machine_config(
        TRY(parse_machine_config(body, &controller.configuration().vm.machine)));
  });
}

Result<Task> put_drive(const Call& call) {
  vmm::DriveConfig drive = TRY(parse_drive(call.body, "drive"));
  TRY(check_id(call, "drive.drive_id", drive.block.id));
  return does([drive = std::move(drive)](Controller& controller) { return controller.put_drive(drive); });
}

Result<Task> put_network_interface(const Call& call) {
  virtio::net::Config net = TRY(parse_network_interface(call.body, "network-interface"));
  TRY(check_id(call, "network-interface.iface_id", net.id));
  return does(
      [net = std::move(net)](Controller& controller) { return controller.put_network_interface(net); });
}

Result<Task> put_vsock(const Call& call) {
  return does(
      [vsock = TRY(parse_vsock(call.body))](Controller& controller) { return controller.put_vsock(vsock); });
}

Result<Task> put_logger(const Call& call) {
  return does([logger = TRY(parse_logger(call.body))](Controller& controller) {
    return controller.put_logger(logger);
  });
}

Result<Task> put_metrics(const Call& call) {
  return does([metrics = TRY(parse_metrics(call.body))](Controller& controller) {
    return controller.put_metrics(metrics);
  });
}

// The interfaces that it names are the controller's.
Result<Task> put_mmds_config(const Call& call) {
  return does([body = call.body](Controller& controller) -> Status {
    return controller.put_mmds_config(
        TRY(parse_mmds_config(body, controller.configuration().vm.network_interfaces)));
  });
}

// --- After it, and the start itself

Result<Task> patch_drive(const Call& call) {
  DriveUpdate update = TRY(parse_drive_update(call.body));
  TRY(check_id(call, "drive.drive_id", update.id));
  return does(
      [update = std::move(update)](Controller& controller) { return controller.update_drive(update); });
}

Result<Task> patch_network_interface(const Call& call) {
  NetworkUpdate update = TRY(parse_network_update(call.body));
  TRY(check_id(call, "network-interface.iface_id", update.id));
  return does([update = std::move(update)](Controller& controller) {
    return controller.update_network_interface(update);
  });
}

Result<Task> put_actions(const Call& call) {
  Fields fields = TRY(Fields::of(call.body, "action"));
  const std::string type = TRY(fields.text("action_type"));
  TRY(fields.finish());
  if (type == "InstanceStart") return does(&Controller::start);
  if (type == "FlushMetrics") return does(&Controller::flush_metrics);
  if (type == "SendCtrlAltDel") return does(&Controller::send_ctrl_alt_del);
  return fail("{}: \"{}\" is not InstanceStart, FlushMetrics or SendCtrlAltDel",
              fields.path_of("action_type"), type);
}

Result<Task> patch_vm(const Call& call) {
  Fields fields = TRY(Fields::of(call.body, "vm"));
  const std::string state = TRY(fields.text("state"));
  TRY(fields.finish());
  if (state == "Paused") return does(&Controller::pause);
  if (state == "Resumed") return does(&Controller::resume);
  return fail("{}: \"{}\" is not Paused or Resumed", fields.path_of("state"), state);
}

struct Route {
  Operation operation;
  Result<Task> (*handler)(const Call& call);
};

constexpr std::array kRoutes = {
    Route{{"GET", "/"}, get_instance},
    Route{{"GET", "/version"}, get_version},
    Route{{"GET", "/vm/config"}, get_configuration},
    Route{{"GET", "/machine-config"}, get_machine_config},
    Route{{"GET", "/metrics"}, get_metrics},
    Route{{"GET", "/mmds"}, get_mmds},
    Route{{"PUT", "/mmds"}, put_mmds},
    Route{{"PATCH", "/mmds"}, patch_mmds},
    Route{{"PUT", "/boot-source"}, put_boot_source},
    Route{{"PUT", "/machine-config"}, put_machine_config},
    Route{{"PATCH", "/machine-config"}, patch_machine_config},
    Route{{"PUT", "/drives/{id}"}, put_drive},
    Route{{"PUT", "/network-interfaces/{id}"}, put_network_interface},
    Route{{"PUT", "/vsock"}, put_vsock},
    Route{{"PUT", "/logger"}, put_logger},
    Route{{"PUT", "/metrics"}, put_metrics},
    Route{{"PUT", "/mmds/config"}, put_mmds_config},
    Route{{"PATCH", "/drives/{id}"}, patch_drive},
    Route{{"PATCH", "/network-interfaces/{id}"}, patch_network_interface},
    Route{{"PUT", "/actions"}, put_actions},
    Route{{"PATCH", "/vm"}, patch_vm},
};

// What Firecracker has and Mayfly does not, by the path's first segment.
constexpr std::array kAbsent = {
    std::pair{"balloon"sv,
              "a balloon would let one guest slow the others; give the machine the memory it needs"sv},
    std::pair{"entropy"sv,
              "guests take their randomness from the CPU (RDRAND), so there is no entropy device"sv},
    std::pair{"pmem"sv, "there are no persistent memory devices; use a drive"sv},
    std::pair{"hotplug"sv, "nothing can be added to a machine that runs; configure it before the start"sv},
    std::pair{"cpu-config"sv, "every machine has the same CPU features, which cannot be configured"sv},
    std::pair{"serial"sv, "the serial port is the process's standard input and output; redirect those"sv},
    std::pair{"snapshot"sv, "this version has no snapshots"sv},
};

// Whether `path` fits `pattern`; then `id` is what stands for {id}.
bool matches(std::string_view pattern, std::string_view path, std::string_view& id) {
  constexpr std::string_view kPlaceholder = "{id}";
  if (!pattern.ends_with(kPlaceholder)) return pattern == path;
  const std::string_view prefix = pattern.substr(0, pattern.size() - kPlaceholder.size());
  if (!path.starts_with(prefix)) return false;
  id = path.substr(prefix.size());
  return !id.empty() && id.find('/') == std::string_view::npos;
}

}  // namespace

Result<Task> route(std::string_view method, std::string_view path, std::string_view body) {
  std::vector<std::string_view> methods;
  for (const Route& route : kRoutes) {
    Call call{.id = {}, .text = body, .body = {}};
    if (!matches(route.operation.path, path, call.id)) continue;
    if (route.operation.method == method) {
      if (method != "GET") {
        call.body = TRY(base::parse_json(body, "the request's body"));
      } else if (!body.empty()) {
        return fail("GET {}: a GET has no body", route.operation.path);
      }
      return route.handler(call);
    }
    methods.push_back(route.operation.method);
  }
  const std::string_view shown = path.substr(0, 100);
  if (!methods.empty()) return fail("{} {}: here it is {}", method, shown, fmt::join(methods, " or "));
  const std::string_view first = path.substr(std::min<std::size_t>(1, path.size()));
  for (const auto& [segment, why] : kAbsent) {
    if (first == segment || first.starts_with(std::string(segment) + "/")) return fail("{}", why);
  }
  return fail("{} {}: there is no such operation", method, shown);
}

std::vector<Operation> operations() {
  std::vector<Operation> all;
  for (const Route& route : kRoutes) all.push_back(route.operation);
  return all;
}

}  // namespace mayfly::api
