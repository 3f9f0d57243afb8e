#!/usr/bin/python3
"""openapi_test.py MAYFLY-VMM OPENAPI.YAML: holds the description of the control socket and the server against each other.

Every body that is tried is judged by the description's schema, and the server must judge the same: what is valid is done (or
refused because of the state that x-mayfly-when and the operation's description name), what is not is refused with 400
and a fault that names the field. The server's own lists (of methods in "here it is …", of fields in "known here: …") must be
those of the description. That no path is served beyond those described is shown by router_test.cpp.

Nothing is started, so /dev/kvm is not needed. Prints each disagreement, and ends with 1 if there was one."""

import copy
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
from urllib.parse import quote

import jsonschema
import yaml

DEADLINE = 120  # seconds, for anything that is waited for
METHODS = ("GET", "PUT", "PATCH")
NOT_STARTED = "is not possible before the machine is started"
LARGEST_BODY = 51200

# What has to be there before an operation can be done.
ETH0 = ("PUT", "/network-interfaces/eth0", {"iface_id": "eth0", "host_dev_name": "tap0"})
BEFORE = {
    ("PUT", "/mmds/config"): [ETH0],
    ("PATCH", "/mmds"): [("PUT", "/mmds", {"a": 1})],
    ("PATCH", "/machine-config"): [("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})],
}
# Possible once for a process: each body that is right gets one of its own.
ONCE = {("PUT", "/metrics")}

ABSENT = object()

problems = []
checks = 0


def check(holds, *what):
    """Counts a check; `what`: to be printed when it does not hold."""
    global checks
    checks += 1
    if not holds:
        problems.append(" ".join(str(w) for w in what))
        print("DISAGREEMENT:", problems[-1], flush=True)


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.path)


class Server:
    """A mayfly-vmm in a folder of its own, which has the files that the examples name."""

    def __init__(self, vmm):
        self.folder = tempfile.TemporaryDirectory(prefix="mayfly-openapi-")
        for name in ("vmlinux", "initrd.cpio", "rootfs.ext4", "text"):
            with open(os.path.join(self.folder.name, name), "wb") as file:
                file.write(b"\0" * 4096)
        self.log = open(os.path.join(self.folder.name, "stderr"), "w+", encoding="utf-8")
        readable, writable = os.pipe()
        self.process = subprocess.Popen(
            [vmm, "--api-sock", "api.sock", "--id", "openapi-test", "--notify-fd", str(writable)], cwd=self.folder.name,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log, pass_fds=[writable])
        os.close(writable)
        with os.fdopen(readable) as events:
            ready, _, _ = select.select([events], [], [], DEADLINE)
            if not ready or events.readline() != "socket\n":
                sys.exit(f"mayfly-vmm did not serve its socket: {self.stderr()}")
        self.connection = Connection(os.path.join(self.folder.name, "api.sock"))

    def stderr(self):
        self.log.seek(0)
        return self.log.read()

    def call(self, method, path, body=ABSENT):
        """(status, content type, content)"""
        content = None if body is ABSENT else json.dumps(body)
        headers = {} if body is ABSENT else {"Content-Type": "application/json"}
        self.connection.request(method, path, body=content, headers=headers)
        response = self.connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()

    def end(self):
        self.connection.close()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE)
        check(status == -signal.SIGTERM, "mayfly-vmm ended with", status, self.stderr())
        self.log.close()
        self.folder.cleanup()


class Description:
    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.document = yaml.safe_load(file)

    def resolved(self, node):
        while "$ref" in node:
            target = self.document
            for key in node["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            node = target
        return node

    def json_schema(self, node):
        """An OpenAPI 3.0 schema as the JSON Schema (draft 4) that means the same."""
        node = dict(self.resolved(node))
        if node.get("nullable"):
            node["type"] = [node["type"], "null"]
        for key in ("properties", "patternProperties"):
            if key in node:
                node[key] = {name: self.json_schema(sub) for name, sub in node[key].items()}
        for key in ("items", "not", "additionalProperties"):
            if isinstance(node.get(key), dict):
                node[key] = self.json_schema(node[key])
        for key in ("allOf", "oneOf", "anyOf"):
            if key in node:
                node[key] = [self.json_schema(sub) for sub in node[key]]
        return node

    def validator(self, node):
        schema = self.json_schema(node)
        jsonschema.Draft4Validator.check_schema(schema)
        return jsonschema.Draft4Validator(schema)

    def operations(self):
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method.lower() in item:
                    yield method, path, item[method.lower()]


# --- Bodies

WRONG_TYPES = ("text", 7, -1, 1.5, True, [], {}, None, 2**64)


def candidates(schema):
    """Values to try for a field: of each type, at and beyond each limit, and each that is allowed."""
    values = list(WRONG_TYPES) + list(schema.get("enum", []))
    for limit, step in (("minimum", -1), ("maximum", 1)):
        if limit in schema:
            values += [schema[limit], schema[limit] + step]
    if "minLength" in schema:
        values.append("")
    if "maxLength" in schema:
        values += ["x" * schema["maxLength"], "x" * (schema["maxLength"] + 1)]
    if "pattern" in schema:
        values += ["", "a b", "a-b", "a/b", "..", "00:00:00:00:00:00", "07:00:ac:10:00:02", "06:00:AC:10:00", "169.254.0.1",
                   "169.254.255.1", "169.254.1.256", "169.254.169.254", "10.0.0.1", "a:b", "a" * 15, "a" * 16, "é"]
    if "items" in schema:
        values += [[7], ["eth0", "eth0"], ["a b"], ["eth0"], [None]]
    return values


def changed(body, where, value):
    body = copy.deepcopy(body)
    node = body
    for key in where[:-1]:
        node = node[key]
    if value is ABSENT:
        node.pop(where[-1], None)
    else:
        node[where[-1]] = value
    return body


def bodies(description, schema, body, where=()):
    """(body, dotted name of what was changed) for each change of one field of `body`, at any depth."""
    schema = description.resolved(schema)
    node = body
    for key in where:
        node = node[key]
    yield changed(body, (*where, "no_such_field"), 1), ".".join((*where, "no_such_field"))
    names = dict(schema.get("properties", {}))
    if isinstance(schema.get("additionalProperties"), dict):
        names.update({name: schema["additionalProperties"] for name in node})
    for name, sub in names.items():
        place = (*where, name)
        resolved = description.resolved(sub)
        yield changed(body, place, ABSENT), ".".join(place)
        for value in candidates(resolved):
            yield changed(body, place, value), ".".join(place)
        if isinstance(node.get(name), dict):
            yield from bodies(description, resolved, body, place)


def minimal(description, schema, body):
    """What of `body` is required."""
    schema = description.resolved(schema)
    required = set(schema.get("required", []))
    for alternative in schema.get("oneOf", []):
        required |= set(alternative["required"]) & set(body)
    return {name: body[name] for name in body if name in required}


# Two fields that exclude each other.
PAIRS = {
    "/drives/{id}": [
        {"drive_id": "a", "is_root_device": False, "path_on_host": "rootfs.ext4", "overlay_path": "o", **more}
        for more in ({"is_read_only": True}, {"is_read_only": False}, {"io_engine": "Async"}, {"io_engine": "Sync"})],
    "/network-interfaces/{id}": [
        {"iface_id": "a", "host_dev_name": tap, "socket_path": path} for tap in ("tap0", None) for path in ("s", None)],
    "/machine-config": [
        {"vcpu_count": 1, "mem_size_mib": size, "huge_pages": "2M"} for size in (127, 128)],
}


# --- What is held against what

class Comparison:
    def __init__(self, vmm, description):
        self.vmm = vmm
        self.description = description
        self.server = Server(vmm)

    def renew(self):
        self.server.end()
        self.server = Server(self.vmm)

    def fault(self, method, path, status, content, body=None):
        """The text of a fault, which has the form that the description gives it."""
        try:
            answer = json.loads(content)
            jsonschema.validate(answer, self.description.json_schema({"$ref": "#/components/schemas/Fault"}))
        except (ValueError, jsonschema.ValidationError) as error:
            check(False, method, path, body, "->", status, "with no fault:", content, error)
            return ""
        return answer["fault_message"]

    def compare_body(self, method, path, operation, body, name):
        """`name`: the field that was changed."""
        content = operation["requestBody"]["content"]["application/json"]
        schema = content["schema"]
        if self.id_of(body) not in ("none", self.id_of(content["examples"]["full"]["value"])):
            self.renew()  # there may not be room for two
        valid = self.description.validator(schema).is_valid(body)
        for before in BEFORE.get((method, path), []):
            self.server.call(*before)
        url = path.replace("{id}", quote(str(self.id_of(body)), safe=""))
        status, _, content = self.server.call(method, url, body)
        shown = f"{method} {url} {json.dumps(body)[:600]}"
        check(str(status) in operation["responses"], shown, "-> a status that is not described:", status)
        if valid and self.possible(operation, body):
            check(status == 204 and not content, shown, "is valid, but was answered by", status, content)
            if (method, path) in ONCE:
                self.renew()
            return
        check(status == 400, shown, "is not valid (or not yet possible), but was answered by", status, content)
        message = self.fault(method, url, status, content, body)
        if valid:
            check(NOT_STARTED in message or "PUT /boot-source first" in message, shown, "-> not the fault of state:", message)
        elif name:
            check(self.names(message, name), shown, "-> the fault does not name", name + ":", message)
            self.compare_choices(schema, message, shown)
        else:
            check("expected a JSON object" in message or "not a JSON object" in message, shown, "->", message)

    def id_of(self, body):
        """What is put for {id} in the path: the id in the body, if it has one."""
        id_ = next((body[key] for key in ("drive_id", "iface_id") if isinstance(body, dict) and key in body), "none")
        return id_ if isinstance(id_, str) and id_ and "/" not in id_ else "none"

    def possible(self, operation, body):
        when = operation["x-mayfly-when"]
        check(when in ("any time", "before start", "after start", "as action_type says"), "x-mayfly-when:", when)
        return when in ("any time", "before start")

    def compare_choices(self, schema, message, shown):
        """The values that a fault says are possible are those that are described."""
        served = re.search(r"[.](\w+): (?:expected one of (.*), got |.* is not ((?:\w+, )*\w+ or \w+)$)", message)
        if served:
            described = self.description.resolved(schema)["properties"][served[1]]["enum"]
            check(set(re.split(", | or ", served[2] or served[3])) == set(described) - {None}, shown, "described are", described,
                  "but served:", message)

    def names(self, message, name):
        """The field that was changed; or where that excludes another one, the other."""
        if re.search(rf"[.]{re.escape(name)}[:.\[]", message):
            return True
        return any(f".{other}:" in message and name in names for other, names in EXCLUDING.items())

    def compare_operation(self, method, path, operation):
        content = operation["requestBody"]["content"]["application/json"]
        schema = content["schema"]
        any_object = self.description.resolved(schema).get("additionalProperties") is True
        for example in content["examples"].values():
            full = example["value"]
            check(self.description.validator(schema).is_valid(full), method, path, "the example is not valid:", full)
            self.compare_body(method, path, operation, full, "")
            if any_object:
                continue
            least = minimal(self.description, schema, full)
            self.compare_body(method, path, operation, least, "")
            for body, name in bodies(self.description, schema, full):
                self.compare_body(method, path, operation, body, name)
            self.compare_fields(method, path, schema, full)
        for body in ("text", 7, [], None):
            self.compare_body(method, path, operation, body, "")
        status, _, content = self.server.call(method, path.replace("{id}", "a"))
        check(status == 400 and "body is not valid JSON" in self.fault(method, path, status, content), method, path, "without a body", status)
        if method == "PUT":
            for body in PAIRS.get(path, []):
                self.compare_body(method, path, operation, body, next(reversed(body)))

    def compare_fields(self, method, path, schema, body, where=()):
        """The fields of an object that the server knows are those that are described."""
        schema = self.description.resolved(schema)
        node = body
        for key in where:
            node = node[key]
        described = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is False:
            for before in BEFORE.get((method, path), []):
                self.server.call(*before)
            _, _, content = self.server.call(method, path.replace("{id}", self.id_of(body)),
                                             changed(body, (*where, "no_such_field"), 1))
            known = re.search(r"unknown field; known here: (.*)", self.fault(method, path, 400, content))
            check(known and set(known[1].split(", ")) == described, method, path, ".".join(where), "described are",
                  sorted(described), "but served:", content)
        else:
            check(path == "/metrics" and where == ("properties",), method, path, where, "may have any field")
        for name, sub in schema.get("properties", {}).items():
            if isinstance(node.get(name), dict):
                self.compare_fields(method, path, sub, body, (*where, name))

    def compare_methods(self, path, item):
        described = {method for method in METHODS if method.lower() in item}
        check({key.upper() for key in item} - set(METHODS) <= {"PARAMETERS"}, path, "has a method that is not tried")
        url = path.replace("{id}", "a")
        for method in ("GET", "PUT", "PATCH", "POST", "DELETE", "OPTIONS"):
            if method in described:
                continue
            status, _, content = self.server.call(method, url, ABSENT if method in ("GET", "OPTIONS") else {})
            message = self.fault(method, url, status, content)
            served = re.search(r"here it is (.*)", message)
            check(status == 400 and served and set(served[1].split(" or ")) == described, method, url, "described are",
                  sorted(described), "but the answer is", status, message)

    def compare_get(self, path, operation):
        status, content_type, content = self.server.call("GET", path)
        described = operation["responses"]["200"]["content"]
        check(status == 200 and content_type.split(";")[0] in described, "GET", path, "->", status, content_type)
        schema = described.get(content_type.split(";")[0], {}).get("schema", {})
        answer = content if content_type.startswith("text/plain") else json.loads(content)
        for error in self.description.validator(schema).iter_errors(answer):
            check(False, "GET", path, "is not as described:", error.message, content)
        status, _, content = self.server.call("GET", path, {})
        check(status == 400 and "has no body" in self.fault("GET", path, status, content), "GET", path, "with a body", status)
        return answer

    def compare_configured(self):
        """What was put is what a GET answers, of all sections at once."""
        put = {}
        for method, path, operation in self.description.operations():
            if method == "PUT" and operation["x-mayfly-when"] == "before start" and path != "/mmds/config":
                put[path] = next(iter(operation["requestBody"]["content"]["application/json"]["examples"].values()))["value"]
        mmds = {"network_interfaces": ["eth0"], "version": "V2", "ipv4_address": "169.254.170.2", "imds_compat": True}
        for path, body in [*put.items(), ("/mmds/config", mmds)]:
            status, _, content = self.server.call("PUT", path.replace("{id}", self.id_of(body)), body)
            check(status == 204, "PUT", path, status, content)
        answer = self.compare_get("/vm/config", self.description.document["paths"]["/vm/config"]["get"])
        described = self.description.resolved({"$ref": "#/components/schemas/Configuration"})["properties"]
        check(set(answer) == set(described), "GET /vm/config has", sorted(answer), "and described are", sorted(described))
        expected = {path.strip("/").removesuffix("/{id}"): [body] if "{id}" in path else body for path, body in put.items()}
        expected["mmds-config"] = mmds
        expected["machine-config"].pop("cpu_template")  # these have no effect, and are not kept
        expected["vsock"].pop("vsock_id")
        expected["network-interfaces"][0]["tx_rate_limiter"]["ops"].pop("one_time_burst")  # is 0, which is as if absent
        for section, value in expected.items():
            check(answer.get(section) == value, "put was", section, value, "but configured is", answer.get(section))

    def compare_too_large(self):
        for method, path, operation in self.description.operations():
            if "requestBody" not in operation:
                continue
            status, _, content = self.server.call(method, path.replace("{id}", "a"), {"a": "x" * LARGEST_BODY})
            check(status == 413 and "413" in operation["responses"], method, path, "of a body that is too large:", status)
            self.fault(method, path, status, content)


# For a field that a fault names: those whose change may be the reason.
EXCLUDING = {
    "mem_size_mib": ("huge_pages",),
    "overlay_path": ("is_read_only",),
    "io_engine": ("overlay_path",),
    "host_dev_name": ("socket_path",),
    "socket_path": ("host_dev_name",),
}


def main():
    vmm, path = (os.path.abspath(argument) for argument in sys.argv[1:3])
    description = Description(path)
    names = [operation["operationId"] for _, _, operation in description.operations()]
    check(len(names) == len(set(names)), "two operations have one operationId")
    comparison = Comparison(vmm, description)
    for path, item in description.document["paths"].items():
        comparison.compare_methods(path, item)
    for method, path, operation in description.operations():
        if method == "GET":
            comparison.compare_get(path, operation)
        else:
            comparison.compare_operation(method, path, operation)
    comparison.compare_too_large()
    comparison.renew()
    comparison.compare_configured()
    for method, path, operation in description.operations():
        if method == "GET":
            comparison.compare_get(path, operation)
    metrics = comparison.server.call("GET", "/metrics")[2]
    for line in metrics.splitlines():
        check(re.fullmatch(r'# TYPE \w+ counter|mayfly_\w+\{instance="openapi-test"(,device="\w+")?\} \d+', line), line)
    comparison.server.end()
    print(f"{checks - len(problems)} passed, {len(problems)} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
