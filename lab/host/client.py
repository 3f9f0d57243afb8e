"""Runs one command in a lab: takes a slot, passes the streams, signals and the end of the command."""

import array
import fcntl
import os
import queue
import select
import signal
import socket
import struct
import termios
import threading
import time
import tty

from common import FileLock, LabError, Lockup, STATUS_TIMEOUT, Stopped, say
import machine

# lab/agent/protocol.h says what these mean.
HELLO, START, START_MORE, STDIN, STDIN_END, SIGNAL, WINDOW_SIZE, KILL, PING, CLOSE_STREAM = range(1, 11)
HELLO_BACK, STDOUT, STDERR, EXIT, ERROR, PONG = range(32, 38)
CREDIT = 64
HEADER = struct.Struct("<BI")
MAX_PAYLOAD = 32 * 1024 - HEADER.size
PREAMBLE = bytes(40 * 1024)
WINDOW = 1024 * 1024
START_HEADER = struct.Struct("<IIQHHIII")
FLAG_TERMINAL, FLAG_TERMINAL_STDERR, FLAG_FORGET_FILES = 1, 2, 4

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
GIVE_UP_AFTER = 3  # that many SIGINT or SIGTERM without an end

# Generous, since they only tell a lab that hangs from one that is slow.
SECONDS_TO_BOOT, SECONDS_TO_ANSWER = 180, 60
SECONDS_TO_KILL = 30
SECONDS_QUIET, SECONDS_TO_PONG = 20, 90


class Slot:
    """A connection to the agent that nobody else uses."""

    def __init__(self, state):
        self._state = state
        self.generation = 0
        self._send_lock = threading.Lock()
        self._pending = b""
        self._lock = None
        self.socket = None

    def open(self):
        """Waits for a free slot as long as it takes, then for the agent's answer."""
        deadline = None
        while True:
            info = machine.read_info(self._state)
            if info:
                self._check_runs(info)
            elif not machine.alive(self._state):
                raise LabError("the lab ended while it started")
            if info and self._take_free(info):
                deadline = deadline or time.monotonic() + SECONDS_TO_BOOT
                if self._connect(deadline):
                    return
            if deadline and time.monotonic() > deadline:
                raise LabError("no answer from the lab for %d s" % SECONDS_TO_BOOT)
            time.sleep(0.02)

    @staticmethod
    def _check_runs(info):
        """Not when it ended before we came and is not started afresh."""
        fate = info["fates"].get(str(info["generation"]))
        if not info["qemu"]:
            raise LabError(fate) if fate.startswith(machine.QEMU_ENDED) else Lockup(fate)

    def _take_free(self, info):
        if self._lock:
            return True
        for number in range(1, info["slots"] + 1):
            lock = FileLock("%s/slot-%d.lock" % (self._state, number), wait=False)
            if lock.held:
                self._lock, self._path = lock, "%s/slot-%d" % (self._state, number)
                return True
        return False

    def _connect(self, deadline):
        """True once the agent has answered our hello."""
        self.generation = machine.read_info(self._state)["generation"]
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        nonce = os.urandom(16)
        answer = HEADER.pack(HELLO_BACK, len(nonce)) + nonce
        try:
            self.socket.settimeout(max(0.1, min(SECONDS_TO_ANSWER, deadline - time.monotonic())))
            self.socket.connect(self._path)
            self.socket.sendall(PREAMBLE + HEADER.pack(HELLO, len(nonce)) + nonce)
            data = b""
            while answer not in data:
                got = self.socket.recv(65536)
                if not got:
                    return False
                data = data[-len(answer):] + got
            self._pending = data.split(answer, 1)[1]
            self.socket.settimeout(None)
            return True
        except OSError:
            return False

    def close(self):
        if self.socket:
            self.socket.close()
        if self._lock:
            self._lock.release()

    def send(self, kind, payload=b""):
        with self._send_lock:
            try:
                self.socket.sendall(HEADER.pack(kind, len(payload)) + payload)
            except OSError:
                pass  # the reading side notices

    def frames(self):
        """What has come, as (type, payload); call when the socket is readable."""
        got = self.socket.recv(256 * 1024)
        if not got:
            raise self._fate()
        data, at, frames = self._pending + got, 0, []
        while len(data) - at >= HEADER.size:
            kind, length = HEADER.unpack_from(data, at)
            if len(data) - at < HEADER.size + length:
                break
            frames.append((kind, data[at + HEADER.size:at + HEADER.size + length]))
            at += HEADER.size + length
        self._pending = data[at:]
        return frames

    def suspect(self, reason):
        machine.tell(self._state, "suspect %d %s" % (self.generation, reason))
        raise Lockup(reason)

    def _fate(self):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            info = machine.read_info(self._state)
            if info is None:
                break
            if str(self.generation) in info["fates"]:
                return Lockup(info["fates"][str(self.generation)])
            time.sleep(0.05)
        return Stopped()


class Writer(threading.Thread):
    """Writes one output stream at the pace of whoever reads it."""

    def __init__(self, slot, fd, stream):
        super().__init__(daemon=True)
        self._slot, self._fd, self._stream, self._queue = slot, fd, stream, queue.SimpleQueue()

    def put(self, data):
        self._queue.put(data)

    def finish(self):
        self._queue.put(None)
        self.join()

    def run(self):
        open_ = True
        while (data := self._queue.get()) is not None:
            try:
                view = memoryview(data)
                while open_ and view:
                    view = view[os.write(self._fd, view):]
            except OSError:
                open_ = False
                self._slot.send(CLOSE_STREAM, bytes([self._stream]))
            self._slot.send(CREDIT, struct.pack("<BI", self._stream, len(data)))


class Reader(threading.Thread):
    """Passes standard input on, as far as the command reads it."""

    def __init__(self, slot):
        super().__init__(daemon=True)
        self._slot, self._credit, self._more = slot, WINDOW, threading.Condition()
        self.passed = 0

    def add_credit(self, count):
        with self._more:
            self._credit += count
            self._more.notify()

    def run(self):
        while True:
            with self._more:
                self._more.wait_for(lambda: self._credit > 0)
            try:
                data = os.read(0, min(self._credit, MAX_PAYLOAD))
            except OSError:
                data = b""
            if not data:
                self._slot.send(STDIN_END)
                return
            with self._more:
                self._credit -= len(data)
            self.passed += len(data)
            self._slot.send(STDIN, data)


class Terminal:
    """The caller's terminal, raw while the command has it."""

    def __init__(self):
        self.input = os.isatty(0) and os.isatty(1)
        self.error = self.input and os.isatty(2)
        self._before = None

    def size(self):
        size = array.array("H", [24, 80, 0, 0])
        if self.input:
            fcntl.ioctl(0, termios.TIOCGWINSZ, size)
        return size[0], size[1]

    def __enter__(self):
        if self.input:
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)
        return self

    def __exit__(self, *_):
        if self._before:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)


class Run:
    def __init__(self, slot, terminal, timeout, use_stdin, start):
        self._slot, self._terminal, self._timeout, self._start = slot, terminal, timeout, start
        self._out, self._err = Writer(slot, 1, 1), Writer(slot, 2, 2)
        self.reader = Reader(slot)
        self._use_stdin = use_stdin
        self._impatience = 0
        self._kill_deadline = self._ping_sent = None

    def run(self):
        wake_in, wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for number in FORWARDED + (signal.SIGWINCH,):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wake_out)
        with self._terminal:
            self._send_start()
            self._deadline = time.monotonic() + self._timeout if self._timeout else None
            self._heard = time.monotonic()
            try:
                while True:
                    ready, _, _ = select.select([self._slot.socket, wake_in], [], [], 1)
                    if wake_in in ready:
                        for number in os.read(wake_in, 256):
                            self._forward(number)
                    if self._slot.socket in ready:
                        self._heard, self._ping_sent = time.monotonic(), None
                        for kind, payload in self._slot.frames():
                            status = self._handle(kind, payload)
                            if status is not None:
                                return status
                    self._check_deadlines()
            finally:
                if self._out.is_alive():
                    self._out.finish()
                    self._err.finish()

    def _send_start(self):
        for first in range(0, max(len(self._start) - MAX_PAYLOAD, 0), MAX_PAYLOAD):
            self._slot.send(START_MORE, self._start[first:first + MAX_PAYLOAD])
        rest = len(self._start) - (len(self._start) - 1) // MAX_PAYLOAD * MAX_PAYLOAD
        self._slot.send(START, self._start[-rest:])
        self._out.start()
        self._err.start()
        if self._use_stdin:
            self.reader.start()
        else:
            self._slot.send(STDIN_END)

    def _forward(self, number):
        if number == signal.SIGWINCH:
            self._slot.send(WINDOW_SIZE, struct.pack("<HH", *self._terminal.size()))
            return
        if number not in FORWARDED:
            return
        self._slot.send(SIGNAL, bytes([number]))
        if number in (signal.SIGINT, signal.SIGTERM):
            self._impatience += 1
            if self._impatience >= GIVE_UP_AFTER:
                self._slot.send(KILL)

    def _check_deadlines(self):
        now = time.monotonic()
        if self._deadline and now > self._deadline and not self._kill_deadline:
            self._slot.send(KILL)
            self._kill_deadline = now + SECONDS_TO_KILL
        if self._kill_deadline and now > self._kill_deadline:
            self._slot.suspect("a command that was killed did not end in %d s" % SECONDS_TO_KILL)
        if self._ping_sent and now > self._ping_sent + SECONDS_TO_PONG:
            self._slot.suspect("it did not answer for %d s" % SECONDS_TO_PONG)
        if not self._ping_sent and now > self._heard + SECONDS_QUIET:
            self._ping_sent = now
            self._slot.send(PING)

    def _handle(self, kind, payload):
        """Returns the exit status when the frame ends the command."""
        if kind == STDOUT:
            self._out.put(payload)
        elif kind == STDERR:
            self._err.put(payload)
        elif kind == CREDIT:
            self.reader.add_credit(struct.unpack("<BI", payload)[1])
        elif kind == ERROR:
            say(payload[4:].decode(errors="replace"))
            return struct.unpack("<I", payload[:4])[0]
        elif kind == EXIT:
            if self._kill_deadline:
                say("timed out after %g s" % self._timeout)
                return STATUS_TIMEOUT
            return struct.unpack("<I", payload)[0]
        return None


def start_message(arguments, environment, directory, terminal, forget_files):
    umask = os.umask(0)
    os.umask(umask)
    flags = (FLAG_TERMINAL if terminal.input else 0) | (FLAG_TERMINAL_STDERR if terminal.error else 0)
    flags |= FLAG_FORGET_FILES if forget_files else 0
    rows, columns = terminal.size()
    strings = [directory] + arguments + ["%s=%s" % pair for pair in environment.items()]
    header = START_HEADER.pack(flags, umask, time.time_ns(), rows, columns, len(arguments), len(environment), 0)
    return header + b"".join(os.fsencode(string) + b"\0" for string in strings)


def run_command(state, arguments, environment, directory, timeout, use_stdin, forget_files):
    """Runs `arguments` in the lab at `state`, whose files are looked at afresh if `forget_files`.

    Returns the exit status. A Lockup gets an attribute `input_used`: whether bytes of standard input went with it."""
    slot, run = Slot(state), None
    try:
        slot.open()
        terminal = Terminal() if use_stdin else _no_terminal()
        message = start_message(arguments, environment, directory, terminal, forget_files)
        run = Run(slot, terminal, timeout, use_stdin, message)
        return run.run()
    except Lockup as lockup:
        lockup.input_used = run is not None and run.reader.passed > 0
        raise
    finally:
        slot.close()


def _no_terminal():
    terminal = Terminal()
    terminal.input = terminal.error = False
    return terminal
