#!/usr/bin/python3
"""`mayfly image import`, `ls` and `rm`, with archives made here. Usage: image_import_test.py MAYFLY MAYFLY-INIT
Run by root, it is done a second time as a user who is not."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

MAYFLY, INIT = (os.path.realpath(path) for path in sys.argv[1:3])
DEADLINE_S = 120
CONFIG = {"Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo hi"], "Env": ["PATH=/bin", "A=b"], "User": "app:staff", "WorkingDir": "etc"}


def layer(*entries):
    """Of (name, content or None for a folder or ("link", target), owner)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content, *owner in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.mtime = 0o755, 1700000000
            info.uid, info.gid = owner[0] if owner else (0, 0)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, content[1]
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return file.getvalue()


LAYERS = (
    layer(("bin", None), ("bin/sh", b"\x7fELF"), ("etc", None), ("etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1234:2345::/:/bin/sh\n"),
          ("etc/group", b"root:x:0:\nstaff:x:50:\n"), ("etc/owned", b"mine", (1234, 2345)), ("gone", None), ("gone/file", b"1"),
          ("opaque", None), ("opaque/old", b"1"), ("changed", b"first")),
    layer((".wh.gone", b""), ("opaque/.wh..wh..opq", b""), ("opaque/new", b"2"), ("changed", b"second")),
)


def docker_archive(path, layers=LAYERS, architecture="amd64", config=None):
    """What docker save writes (moby, image/spec/v1.2.md)."""
    image = json.dumps({"architecture": architecture, "os": "linux", "config": CONFIG if config is None else config,
                        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]}}).encode()
    files = {f"layer{i}.tar": data for i, data in enumerate(layers)}
    files["config.json"] = image
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": ["demo:1"], "Layers": [f"layer{i}.tar" for i in range(len(layers))]}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def debugfs(image, request):
    return subprocess.run(["debugfs", "-R", request, image], capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout


class Import(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.images = self.path("data/mayfly/images")
        self.archive = self.path("demo.tar")
        docker_archive(self.archive)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def start(self, *words):
        return subprocess.Popen([MAYFLY, "image", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=dict(os.environ, XDG_DATA_HOME=self.path("data"), HOME=self.folder.name))

    def mayfly(self, *words):
        process = self.start(*words)
        out, err = process.communicate(timeout=DEADLINE_S)
        return process.returncode, out, err

    def imports(self, *words):
        status, _, err = self.mayfly("import", "--init", INIT, *words)
        self.assertEqual((status, err), (0, ""))

    def refused(self, text, *words):
        before = sorted(os.listdir(self.images)) if os.path.exists(self.images) else []
        status, out, err = self.mayfly("import", "--init", INIT, *words)
        self.assertEqual((status, out), (125, ""))
        self.assertIn(text, err)
        self.assertEqual(err.count("\n"), 1)
        self.assertEqual(sorted(os.listdir(self.images)) if os.path.exists(self.images) else [], before)

    def listed(self):
        status, out, _ = self.mayfly("ls", "--json")
        self.assertEqual(status, 0)
        return {image["name"]: image for image in json.loads(out)}

    def content(self, image, file):
        return debugfs(image["file"], f"cat {file}")

    def check_demo(self, image):
        self.assertEqual(image["config"], {"entrypoint": ["/bin/sh", "-c"], "command": ["echo hi"], "environment": ["PATH=/bin", "A=b"],
                                           "user": "1234:50", "directory": "/etc"})
        self.assertEqual(self.content(image, "/changed"), "second")
        self.assertEqual(self.content(image, "/opaque/new"), "2")
        names = debugfs(image["file"], "ls /").split()
        self.assertNotIn("gone", names)
        self.assertNotIn("old", debugfs(image["file"], "ls /opaque").split())
        self.assertFalse([name for name in names if name.startswith(".wh")])
        facts = debugfs(image["file"], "stat /etc/owned").split()
        self.assertEqual([facts[facts.index("User:") + 1], facts[facts.index("Group:") + 1]], ["1234", "2345"])
        self.assertNotIn("rootlesscontainers", debugfs(image["file"], "ea_list /etc/owned"))
        self.assertIn("mayfly-init", debugfs(image["file"], "ls /sbin"))

    def test_docker_archive(self):
        self.imports(self.archive)
        self.check_demo(self.listed()["demo"])
        self.assertEqual(sorted(os.listdir(self.images)), ["demo.ext4", "demo.json"])

    def test_oci_layout_as_folder_and_as_archive(self):
        for kind in ("oci", "oci-archive"):
            layout = self.path(kind)
            subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet", f"docker-archive:{self.archive}", f"{kind}:{layout}:tag"],
                           check=True, timeout=DEADLINE_S, env=dict(os.environ, HOME=self.folder.name))
            self.imports(layout, "--name", f"{kind}:1")
            self.check_demo(self.listed()[f"{kind}:1"])

    def test_names(self):
        self.imports(self.archive, "--name", "b")
        self.imports(self.archive, "--name", "a")
        status, out, _ = self.mayfly("ls")
        self.assertEqual([line.split()[0] for line in out.splitlines()], ["NAME", "a", "b"])
        self.assertEqual(self.mayfly("rm", "a")[0], 0)
        status, _, err = self.mayfly("rm", "a")
        self.assertEqual((status, err), (125, "mayfly: there is no image a; there are: b\n"))
        for name in ("../x", "", ".x", "a/b", "x" * 101):
            if name:
                self.refused("is no name for an image", self.archive, "--name", name)
        self.assertEqual(list(self.listed()), ["b"])

    def test_another_of_the_same_name_replaces_it(self):
        self.imports(self.archive)
        docker_archive(self.archive, [layer(("only", b"this"))], config={"Cmd": ["/only"]})
        self.imports(self.archive)
        image = self.listed()["demo"]
        self.assertEqual(self.content(image, "/only"), "this")
        self.assertEqual(image["config"]["command"], ["/only"])

    def test_what_is_no_image(self):
        self.refused("No such file", self.path("missing.tar"))
        with open(self.path("text.tar"), "w") as f:
            f.write("no archive")
        self.refused("neither what `docker save` writes nor an OCI layout", self.path("text.tar"))
        with tarfile.open(self.path("plain.tar"), "w") as tar:
            tar.addfile(tarfile.TarInfo("file"))
        self.refused("neither what `docker save` writes nor an OCI layout", self.path("plain.tar"))
        os.mkdir(self.path("empty"))
        self.refused("is no OCI layout", self.path("empty"))
        with open(self.archive, "r+b") as f:
            f.truncate(2000)
        self.refused("neither what `docker save` writes nor an OCI layout", self.archive)
        with tarfile.open(self.archive, "w") as tar:
            info = tarfile.TarInfo("manifest.json")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"[]"))
        self.refused("cannot read", self.archive)

    def test_what_cannot_be_run(self):
        docker_archive(self.archive, architecture="arm64")
        self.refused("is for linux on arm64", self.archive)
        docker_archive(self.archive, config={"User": "nobody-there"})
        self.refused("the image's user nobody-there is not in its /etc/passwd", self.archive)
        docker_archive(self.archive, config={"Env": ["=x"]})
        self.refused("is not NAME=VALUE", self.archive)

    def test_layers_that_lead_outside(self):
        """A link in one layer, and a file through it in the next."""
        victim = self.path("victim")
        os.mkdir(victim)
        docker_archive(self.archive, [layer(("out", ("link", victim)), ("bin", None)), layer(("out/file", b"bad"), ("../up", b"bad"))], config={})
        self.mayfly("import", "--init", INIT, self.archive)
        self.assertEqual(os.listdir(victim), [])
        self.assertFalse(os.path.exists(self.path("data/mayfly/up")) or os.path.exists(self.path("up")))

    def test_several_at_once(self):
        processes = [self.start("import", "--init", INIT, self.archive, "--name", f"image{i % 2}") for i in range(6)]
        for process in processes:
            _, err = process.communicate(timeout=DEADLINE_S)
            self.assertEqual((process.returncode, err), (0, ""))
        self.assertEqual(list(self.listed()), ["image0", "image1"])
        self.check_demo(self.listed()["image1"])

    def test_interrupted(self):
        docker_archive(self.archive, [layer(("big", os.urandom(48 << 20)))], config={})
        process = self.start("import", "--init", INIT, self.archive)
        deadline = time.monotonic() + DEADLINE_S
        while not (os.path.exists(self.images) and os.listdir(self.images)) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(os.listdir(self.images), [])


if __name__ == "__main__":
    good = unittest.main(argv=sys.argv[:1], exit=False).result.wasSuccessful()
    if os.geteuid() == 0 and good:
        sys.stderr.flush()
        # Of a tree that only root reads, nothing can be shown; said, and not taken as a success of that part.
        if subprocess.run(["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "test", "-x", MAYFLY], check=False).returncode == 0:
            other = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "/usr/bin/python3", os.path.realpath(__file__), MAYFLY, INIT]
            good = subprocess.run(other, check=False, env={"PATH": os.environ["PATH"]}).returncode == 0
        else:
            print("not done as another user: only root can read", MAYFLY)
    sys.exit(not good)
