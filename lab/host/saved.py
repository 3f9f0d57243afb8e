"""The emulated host as it is just before it is told what to be, saved so that labs start there and need not boot.

    <cache>/saved/<boot of this machine>-<hash>     QEMU's migration stream

A saved host knows how fast the CPU's time stamp counter runs, so it is good until this machine boots again.
"""

import glob
import hashlib
import json
import os
import select
import shutil
import socket
import subprocess
import time

from common import cache_folder, find_tool, say, state_folder
import machine

SECONDS_TO_BOOT, SECONDS_TO_SAVE = 300, 120
READY = b"lab: waiting for its configuration"


class CannotSave(Exception):
    pass


def this_boot():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read()[:8]


def saved_file(settings, files):
    any_out = machine.Settings(settings.cpus, settings.memory, settings.slots, "/out")
    status = os.stat(find_tool("qemu-system-x86_64"))
    what = repr((machine.qemu_command(any_out, files, "/state"), status.st_size, status.st_mtime_ns))
    name = "%s-%s" % (this_boot(), hashlib.sha256(what.encode()).hexdigest()[:16])
    return os.path.join(cache_folder(), "saved", name)


def prepare(settings, files):
    """Returns the file for these settings, making it when there is none; None when that fails, which costs but time.

    The caller holds the lock of the folder of states."""
    path = saved_file(settings, files)
    if os.path.exists(path):
        return path
    state = os.path.join(state_folder(), "saving-%d" % os.getpid())
    unfinished = path + ".new"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        remove_old(os.path.dirname(path))
        os.makedirs(state)
        say("starting the emulated host for the first time; later starts are faster")
        boot_and_save(settings, files, state, unfinished)
        os.rename(unfinished, path)
        return path
    except (CannotSave, OSError, ValueError) as error:
        say("cannot save the started host (%s); going on without" % error)
        if os.path.exists(unfinished):
            os.unlink(unfinished)
        return None
    finally:
        shutil.rmtree(state, ignore_errors=True)


def remove_old(folder):
    """What was saved before this machine booted, or never finished, and all but a few of the rest."""
    good = [path for path in glob.glob(folder + "/*") if os.path.basename(path).startswith(this_boot() + "-")]
    good = sorted((path for path in good if not path.endswith(".new")), key=os.path.getmtime)[-2:]
    for path in glob.glob(folder + "/*"):
        if path not in good:
            os.unlink(path)


def boot_and_save(settings, files, state, path):
    more = ["-qmp", "unix:%s/qmp,server=on,wait=off" % state]
    with open(state + "/qemu.log", "wb") as log:
        qemu = subprocess.Popen(machine.qemu_command(settings, files, state, more), stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=log, cwd="/")
    try:
        wait_until_ready(qemu)
        save(state + "/qmp", path)
    finally:
        qemu.kill()
        qemu.wait()
        qemu.stdout.close()


def wait_until_ready(qemu):
    console, deadline = b"", time.monotonic() + SECONDS_TO_BOOT
    while READY not in console:
        ready, _, _ = select.select([qemu.stdout], [], [], max(0, deadline - time.monotonic()))
        got = os.read(qemu.stdout.fileno(), 65536) if ready else b""
        if not got:
            words = console.decode(errors="replace").strip().splitlines()
            raise CannotSave("it did not start: %s" % (words[-1] if words else "no word from it"))
        console += got


def save(monitor, path):
    """Writes the machine's state to `path` (QEMU's QMP, "migrate")."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS_TO_SAVE)
        connection.connect(monitor)
        lines = connection.makefile("rw")
        lines.readline()  # its greeting

        def call(command, **arguments):
            lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            lines.flush()
            while True:
                answer = json.loads(lines.readline())
                if "error" in answer:
                    raise CannotSave(answer["error"]["desc"])
                if "return" in answer:
                    return answer["return"]

        call("qmp_capabilities")
        call("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        call("migrate", uri="exec:cat >'%s'" % path.replace("'", "'\\''"))
        deadline = time.monotonic() + SECONDS_TO_SAVE
        while (status := call("query-migrate"))["status"] != "completed":
            if status["status"] in ("failed", "cancelled") or time.monotonic() > deadline:
                raise CannotSave(status.get("error-desc", status["status"]))
            time.sleep(0.02)
