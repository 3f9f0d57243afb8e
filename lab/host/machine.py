"""One emulated host: its QEMU process, and the keeper that watches over it.

The keeper is a process of its own, so that QEMU's end and the removal of the state folder do not depend on how the
caller ends. It holds the lock of the state folder for as long as it lives; a folder whose lock is free is rubbish.

    <state>/lock           held by the keeper
    <state>/control        socket: stop, suspect
    <state>/info           JSON: what runs, and what became of those before it
    <state>/slot-N         socket of slot N        <state>/slot-N.lock   held by whoever uses it
    <state>/console.log    what the lab's kernel said      <state>/qemu.log     what QEMU said
"""

import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import sys
import time

from common import FileLock, LabError, find_tool

# What the lab's kernel says when it is at its end; and when something makes no progress, which a busy machine outside can
# be the cause of too: a lockup is when it says so again.
END = re.compile(r"Kernel panic.*|lab: boot failed.*")
STALL = re.compile(r"(soft lockup|hard LOCKUP|rcu: INFO: rcu_\w+ .*detected.* stall).*")
SECONDS_TO_STALL_AGAIN = (10, 180)

CONSOLE_COPY = "lab-console.log"  # in the folder of results, after trouble

# lab/agent/protocol.h says what these mean.
CONFIGURE, SEED_SIZE = 16, 32

QEMU_ENDED = "QEMU ended"
# A QEMU that ends so soon, without a word of its kernel, will not do better the next time.
SECONDS_TO_FAIL = 3

# Each of these takes something off the start of a kernel made for every machine, or makes trouble end at once.
KERNEL_OPTIONS = " ".join([
    "console=ttyS0 quiet loglevel=4", "panic=-1 oops=panic", "mitigations=off init_on_alloc=0 audit=0",
    "tsc=reliable no_timer_check", "cryptomgr.notests", "lsm=landlock,yama",  # Landlock: Mayfly's jail uses it
    "swiotlb=512",  # no device here needs bounce buffers; the default clears 64 MiB
    "no5lvl", "maxcpus=1 noreplace-smp"])  # the agent starts the other CPUs

# Devices of the board that nobody uses; each costs the kernel a probe.
BOARD = "q35,sata=off,smbus=off,usb=off,vmport=off,i8042=off"


class Settings:
    """What a lab is made of. Two labs with equal settings are interchangeable."""

    def __init__(self, cpus, memory, slots, out):
        self.cpus, self.memory, self.slots, self.out = cpus, memory, slots, out


def qemu_command(settings, files, state, more=()):
    """The state it is in when saved must suit every lab with the same cpus, memory and slots."""
    vmlinux, initrd, _ = files
    share = "local,id=%s,path=%s,security_model=none,multidevs=remap%s"
    command = [
        find_tool("qemu-system-x86_64"), "-M", BOARD, "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt",
        "-smp", str(settings.cpus), "-m", str(settings.memory), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-kernel", vmlinux, "-initrd", initrd, "-append", KERNEL_OPTIONS,
        "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
        "-fsdev", share % ("root", "/", ",readonly=on"), "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
        "-fsdev", share % ("out", settings.out.replace(",", ",,"), ""),
        "-device", "virtio-9p-pci,fsdev=out,mount_tag=out",
        "-device", "virtio-serial-pci,max_ports=%d" % (settings.slots + 2)]
    for port, name in enumerate(["configure"] + ["slot-%d" % (n + 1) for n in range(settings.slots)], 1):
        command += ["-chardev", "socket,id=port%d,path=%s/%s,server=on,wait=off" % (port, state, name),
                    "-device", "virtserialport,chardev=port%d,nr=%d" % (port, port)]
    # However the keeper ends, QEMU goes with it.
    return [find_tool("setpriv"), "--pdeathsig", "KILL", "--"] + command + list(more)


def configure(settings, files, state):
    """Tells the agent what this lab is to be. Returns the connection, to be kept."""
    strings = [str(settings.slots), settings.out, files[2]]
    payload = os.urandom(SEED_SIZE) + b"".join(os.fsencode(text) + b"\0" for text in strings)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(state + "/configure")
    connection.sendall(struct.pack("<BI", CONFIGURE, len(payload)) + payload)
    return connection


class Keeper:
    """The watching process. Ends when its owner does, when told to stop, or when nobody has used the lab for long."""

    def __init__(self, state, settings, files, saved, owner, restarts, idle_limit):
        self._state, self._settings, self._files, self._saved = state, settings, files, saved
        self._owner = os.pidfd_open(owner) if owner else -1
        self._restarts, self._idle_limit = restarts, idle_limit
        self._generation, self._fates = 0, {}
        self._qemu = None  # None after trouble in a lab that is not started afresh, until its owner has read why
        self._last_use = time.monotonic()

    def start_qemu(self):
        import subprocess  # only the keeper needs it, and it is slow to import
        self._generation += 1
        self._started = time.monotonic()
        self._remove_sockets()
        self._console = open(self._state + "/console.log", "ab")
        self._console_tail = b""
        self._stalls = []  # when
        more = ["-incoming", "exec:cat " + shlex.quote(self._saved)] if self._saved else []
        with open(self._state + "/qemu.log", "wb") as log:
            self._qemu = subprocess.Popen(
                qemu_command(self._settings, self._files, self._state, more), stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log, cwd="/")
        self._qemu_fd = os.pidfd_open(self._qemu.pid)
        self._configuration = None
        self._write_info()

    def _remove_sockets(self):
        """So that the socket of a port is there only when a QEMU listens."""
        for name in os.listdir(self._state):
            if name == "configure" or name.startswith("slot-") and not name.endswith(".lock"):
                os.unlink(os.path.join(self._state, name))

    def _try_to_configure(self):
        try:
            self._configuration = configure(self._settings, self._files, self._state)
        except OSError:
            time.sleep(0.005)  # it does not listen yet

    def _write_info(self):
        info = dict(vars(self._settings), keeper=os.getpid(), qemu=self._qemu.pid if self._qemu else 0, generation=self._generation,
                    fates=self._fates)
        with open(self._state + "/info.new", "w") as file:
            json.dump(info, file)
        os.rename(self._state + "/info.new", self._state + "/info")

    def run(self):
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.bind(self._state + "/control")
        self._control.listen(16)
        self.start_qemu()
        while self._serve_once():
            pass
        self._end_qemu()

    def _serve_once(self):
        watched = [self._control.fileno()]
        if self._qemu:
            watched += [self._qemu.stdout.fileno(), self._qemu_fd]
        if self._owner >= 0:
            watched.append(self._owner)
        if self._qemu and not self._configuration:
            self._try_to_configure()
        ready, _, _ = select.select(watched, [], [], 5 if self._configuration or not self._qemu else 0)
        if self._owner in ready:
            return False
        if self._control.fileno() in ready and not self._answer():
            return False
        trouble = None
        if self._qemu and (self._qemu.stdout.fileno() in ready or self._qemu_fd in ready):
            trouble = self._read_console()
            if self._qemu_fd in ready and not trouble:
                trouble = self._judge(self._console_tail.decode(errors="replace")) or QEMU_ENDED + self._last_words()
        if trouble:
            self._start_afresh(trouble)
        return not self._idle_too_long()

    def _last_words(self):
        with open(self._state + "/qemu.log") as log:
            lines = log.read().strip().splitlines()
        return ": " + lines[-1] if lines else ""

    def _read_console(self):
        """Returns what is wrong, if anything is."""
        data = os.read(self._qemu.stdout.fileno(), 65536)
        self._console.write(data)
        self._console.flush()
        *lines, self._console_tail = (self._console_tail + data).split(b"\n")
        troubles = [self._judge(line.decode(errors="replace").strip()) for line in lines]
        return next((trouble for trouble in troubles if trouble), None)

    def _judge(self, line):
        if found := END.search(line):
            return found[0][:100]
        if found := STALL.search(line):
            now, least, most = time.monotonic(), *SECONDS_TO_STALL_AGAIN
            if any(least <= now - before <= most for before in self._stalls):
                return found[0][:100]
            self._stalls.append(now)
        return None

    def _start_afresh(self, trouble):
        hopeless = trouble.startswith(QEMU_ENDED) and time.monotonic() < self._started + SECONDS_TO_FAIL
        if hopeless and self._saved:
            self._discard_saved()
            return
        self._fates[str(self._generation)] = trouble
        self._write_info()  # before the sockets close
        try:
            shutil.copy(self._state + "/console.log", os.path.join(self._settings.out, CONSOLE_COPY))
        except OSError as error:
            print("cannot keep the console:", error, file=sys.stderr)
        self._end_qemu()
        if self._restarts and not hopeless:
            self.start_qemu()
        else:
            self._write_info()

    def _discard_saved(self):
        """The saved state does not load: start from power-on instead, and let the next lab save anew."""
        self._end_qemu()
        if os.path.exists(self._saved):
            os.unlink(self._saved)
        self._saved = None
        self._generation -= 1
        self.start_qemu()

    def _answer(self):
        peer, _ = self._control.accept()
        with peer:
            peer.settimeout(5)
            try:
                words = peer.recv(4096).decode().split(" ", 2)
            except OSError:
                return True
            if words[0] == "suspect" and words[1] == str(self._generation) and self._qemu:
                self._start_afresh(words[2])
            return words[0] != "stop"

    def _idle_too_long(self):
        if not self._idle_limit:
            return False
        locks = [FileLock("%s/slot-%d.lock" % (self._state, n + 1), wait=False) for n in range(self._settings.slots)]
        if not all(lock.held for lock in locks):
            self._last_use = time.monotonic()
        for lock in locks:
            lock.release()
        return time.monotonic() - self._last_use > self._idle_limit

    def _end_qemu(self):
        if self._qemu:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu.stdout.close()
            os.close(self._qemu_fd)
            self._console.close()
            if self._configuration:
                self._configuration.close()
        self._qemu = None


def start_keeper(state, settings, files, saved, owner=0, restarts=False, idle_limit=0):
    """Forks the keeper into a session of its own. Returns its pid; `state` is gone when it has ended.

    The caller holds the lock of the folder of states."""
    os.makedirs(state, exist_ok=True)
    lock = FileLock(state + "/lock")
    pid = os.fork()
    if pid:
        lock.release()
        return pid
    status = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        null, log = os.open("/dev/null", os.O_RDWR), os.open(state + "/keeper.log", os.O_WRONLY | os.O_CREAT, 0o600)
        for fd, source in ((0, null), (1, null), (2, log)):
            os.dup2(source, fd)
        os.closerange(3, lock.fd)
        os.closerange(lock.fd + 1, 65536)
        Keeper(state, settings, files, saved, owner, restarts, idle_limit).run()
        status = 0
    finally:
        if status == 0:
            shutil.rmtree(state, ignore_errors=True)
        os._exit(status)


def read_info(state):
    try:
        with open(state + "/info") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def alive(state):
    """Whether a keeper holds the state folder."""
    if not os.path.exists(state + "/lock"):
        return False
    with FileLock(state + "/lock", wait=False) as lock:
        return not lock.held


def tell(state, message):
    """Sends the keeper a line, and waits until it has acted or is gone."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
            control.connect(state + "/control")
            control.sendall(message.encode())
            control.recv(1)
    except OSError:
        pass


def remove_rubbish(folder):
    """Removes what a keeper that was killed could not: its QEMU died with it."""
    for name in os.listdir(folder):
        state = os.path.join(folder, name)
        if os.path.isdir(state) and not alive(state):
            shutil.rmtree(state, ignore_errors=True)


def tell_until_listening(state, message):
    """As tell(), but for a keeper that may just be starting."""
    while alive(state) and not os.path.exists(state + "/control"):
        time.sleep(0.01)
    tell(state, message)


def wait_until_gone(state):
    deadline = time.monotonic() + 30
    while alive(state):
        if time.monotonic() > deadline:
            raise LabError("the lab in %s does not end" % state)
        time.sleep(0.02)
