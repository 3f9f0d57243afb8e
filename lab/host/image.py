"""What the lab boots: Debian's own kernel, and an initrd of its modules and our agent. Made once and kept in the cache.

    <cache>/kernel/<version>/   vmlinux, modules/ (as /lib/modules/<release> would be)
    <cache>/image/<hash>/       initrd, release; the hash is over everything that goes in
"""

import glob
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import tempfile

from common import FileLock, LabError, ROOT, cache_folder, find_tool, say

AGENT = os.path.join(ROOT, "lab", "agent")
COMPILE = ["g++", "-std=c++20", "-O2", "-static", "-s", "-fno-exceptions", "-Wl,--gc-sections"]

# What reaches the root file system and lab/run, and what commands need. What they depend on is found in the modules.
MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "kvm-amd", "tun"]
# Kept for modprobe inside.
KEEP = ["kernel/arch/x86/kvm", "kernel/arch/x86/crypto", "kernel/block", "kernel/crypto", "kernel/drivers/block",
        "kernel/drivers/char", "kernel/drivers/crypto/ccp", "kernel/drivers/md", "kernel/drivers/net/*.ko",
        "kernel/drivers/net/ipvlan", "kernel/drivers/net/macvlan*", "kernel/drivers/vhost", "kernel/drivers/virtio",
        "kernel/fs", "kernel/lib", "kernel/net", "kernel/virt", "kernel/mm"]

PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux", "g++": "g++", "objcopy": "binutils",
            "depmod": "kmod"}


def as_root():
    """What to put before a command that needs root; None when we cannot be root without asking."""
    if os.getuid() == 0:
        return []
    sudo = shutil.which("sudo")
    return [sudo, "-n"] if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True).returncode == 0 else None


def apt_get(*words):
    """Runs apt-get as root, and shows what it said only when it failed. Raises with the line to type."""
    command = ["apt-get"] + list(words)
    prefix = as_root()
    if not shutil.which("apt-get"):
        raise LabError("the lab is made for Debian 12: needs " + " ".join(words))
    if prefix is None:
        raise LabError("run first: sudo " + " ".join(command))
    done = subprocess.run(prefix + ["env", "DEBIAN_FRONTEND=noninteractive"] + command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise LabError("failed: " + " ".join(command) + "\n" + done.stdout.rstrip())


def require_tools():
    """Installs the few Debian packages the lab needs, or says how."""
    missing = sorted({package for tool, package in PACKAGES.items() if not find_tool(tool)})
    if missing:
        say("installing " + " ".join(missing))
        apt_get("update", "-q")
        apt_get("install", "-q", "-y", "--no-install-recommends", *missing)


def newest_kernel_package(may_update=True):
    shown = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True).stdout
    for line in shown.splitlines():
        word = line.split()[-1]
        if line.strip().startswith("Depends:") and word.startswith("linux-image-"):
            return word
    if not may_update:
        raise LabError("apt knows no package linux-image-amd64")
    apt_get("update", "-q")
    return newest_kernel_package(may_update=False)


def extract_vmlinux(bzimage):
    """The kernel inside a bzImage (Linux's Documentation/x86/boot.rst): unpacking it on an emulated CPU takes seconds."""
    with open(bzimage, "rb") as file:
        data = file.read()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1F1] + 1) * 512 + offset
    if data[0x202:0x206] != b"HdrS" or data[start:start + 6] != b"\xfd7zXZ\0":
        raise LabError("%s is not a kernel compressed by xz" % bzimage)
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(data[start:start + length])


def fetch_kernel(folder):
    package = newest_kernel_package()
    say("fetching Debian's %s (once; 70 MB)" % package)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        got = subprocess.run(["apt-get", "download", package], cwd=work, capture_output=True, text=True)
        packages = glob.glob(work + "/*.deb")
        if got.returncode != 0 or not packages:
            raise LabError("could not download %s: %s" % (package, (got.stderr.strip().splitlines() or ["?"])[-1]))
        version = os.path.basename(packages[0])[:-len(".deb")]
        unpacked = work + "/unpacked"
        subprocess.run(["dpkg", "-x", packages[0], unpacked], check=True)
        made = work + "/made"
        os.makedirs(made)
        with open(made + "/vmlinux", "wb") as file:
            file.write(extract_vmlinux(glob.glob(unpacked + "/boot/vmlinuz-*")[0]))
        keep_modules(glob.glob(unpacked + "/lib/modules/*")[0], made + "/modules")
        shutil.copy(glob.glob(unpacked + "/boot/config-*")[0], made + "/config")
        target = os.path.join(folder, version)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(made, target)
    return target


def keep_modules(source, target):
    """Copies the folders of KEEP; depmod wants to find them as <base>/lib/modules/<release>."""
    release = os.path.basename(source)
    base = os.path.dirname(target) + "/tree"
    inside = os.path.join(base, "lib", "modules", release)
    for pattern in KEEP:
        for path in glob.glob(os.path.join(source, pattern)):
            goal = os.path.join(inside, os.path.relpath(path, source))
            os.makedirs(os.path.dirname(goal), exist_ok=True)
            (shutil.copytree if os.path.isdir(path) else shutil.copy)(path, goal)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(os.path.join(source, name), inside)
    subprocess.run([find_tool("depmod"), "-b", base, release], check=True)
    os.rename(inside, target)
    with open(target + "/release", "w") as file:
        file.write(release)


def module_files(modules, names):
    """The files of modules `names` and of all they depend on, dependencies first."""
    files = {}
    for folder, _, found in os.walk(modules):
        for file in found:
            if file.endswith(".ko"):
                files[file[:-3].replace("-", "_")] = os.path.join(folder, file)
    ordered = []

    def add(name):
        path = files.get(name.replace("-", "_"))
        if path is None:
            raise LabError("Debian's kernel package has no module %s" % name)
        if path in ordered:
            return
        with open(path, "rb") as file:
            for entry in file.read().split(b"\0"):
                if entry.startswith(b"depends="):
                    for needed in entry[len(b"depends="):].decode().split(","):
                        if needed:
                            add(needed)
        ordered.append(path)

    for name in names:
        add(name)
    return ordered


class Cpio:
    """An initrd: the newc format of Linux's Documentation/driver-api/early-userspace/buffer-format.rst."""

    def __init__(self):
        self._parts = []
        self._count = 0

    def add(self, name, mode, data=b"", device=(0, 0)):
        self._count += 1
        raw = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, device[0], device[1], len(raw), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [self._pad(header + raw), self._pad(data)]

    def finish(self):
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)

    @staticmethod
    def _pad(data):
        return data + b"\0" * (-len(data) % 4)


def slim(path, work):
    """A module without its signature and type information: checking and parsing those is slow on an emulated CPU."""
    slimmed = os.path.join(work, os.path.basename(path))
    subprocess.run(["objcopy", "--strip-debug", "--remove-section=.BTF", path, slimmed], check=True)
    with open(slimmed, "rb") as file:
        return file.read()


def build_initrd(kernel, agent, work):
    cpio = Cpio()
    for folder in ("dev", "modules"):
        cpio.add(folder, 0o040755)
    cpio.add("dev/console", 0o020600, device=(5, 1))
    with open(agent, "rb") as file:
        cpio.add("init", 0o100755, file.read())
    files = module_files(kernel + "/modules", MODULES)
    cpio.add("modules/order", 0o100644, "".join(os.path.basename(path) + "\n" for path in files).encode())
    for path in files:
        cpio.add("modules/" + os.path.basename(path), 0o100644, slim(path, work))
    return cpio.finish()


def agent_sources():
    return sorted(glob.glob(AGENT + "/*.h") + glob.glob(AGENT + "/*.cpp"))


def hash_of_inputs(kernel):
    digest = hashlib.sha256(os.path.basename(kernel).encode())
    for path in [os.path.realpath(__file__)] + agent_sources():
        with open(path, "rb") as file:
            digest.update(os.path.basename(path).encode() + b"\0" + file.read())
    return digest.hexdigest()[:16]


def build_image(kernel, target):
    say("building the lab's initrd")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        agent = work + "/agent"
        sources = [path for path in agent_sources() if path.endswith(".cpp")]
        if subprocess.run(COMPILE + sources + ["-o", agent], stdout=2).returncode != 0:
            raise LabError("could not compile lab/agent")
        made = work + "/made"
        os.makedirs(made)
        with open(made + "/initrd", "wb") as file:
            file.write(build_initrd(kernel, agent, work))
        os.rename(made, target)


def latest_kernel(folder):
    found = [path for path in glob.glob(folder + "/linux-image-*") if os.path.exists(path + "/vmlinux")]
    return max(found, key=os.path.getmtime, default=None)


def remove_old(folder, keep):
    """Leaves the `keep` newest; and nothing of a build that was killed (we hold the lock)."""
    paths = sorted(glob.glob(folder + "/*"), key=os.path.getmtime, reverse=True)
    unfinished = [path for path in paths if os.path.basename(path).startswith("tmp")]
    finished = [path for path in paths if path not in unfinished]
    for path in unfinished + finished[keep:]:
        shutil.rmtree(path, ignore_errors=True)


def prepare(update=False):
    """Returns (vmlinux, initrd, modules), making what is missing. `update` takes the newest kernel apt has."""
    cache = cache_folder()
    kernels, images = os.path.join(cache, "kernel"), os.path.join(cache, "image")
    kernel = latest_kernel(kernels)
    image = os.path.join(images, hash_of_inputs(kernel)) if kernel else ""
    if update or not kernel or not os.path.exists(image + "/initrd") or not find_tool("qemu-system-x86_64"):
        os.makedirs(kernels, exist_ok=True)
        os.makedirs(images, exist_ok=True)
        try:
            with FileLock(os.path.join(cache, "lock")):
                kernel, image = build(kernels, images, update)
        except subprocess.CalledProcessError as error:
            raise LabError("failed: " + " ".join(error.cmd)) from None
    return kernel + "/vmlinux", image + "/initrd", kernel + "/modules"


def build(kernels, images, update):
    require_tools()
    kernel = latest_kernel(kernels)
    if update or not kernel:
        kernel = fetch_kernel(kernels)
        remove_old(kernels, 2)
    image = os.path.join(images, hash_of_inputs(kernel))
    if not os.path.exists(image + "/initrd"):
        build_image(kernel, image)
        remove_old(images, 8)
    return kernel, image
