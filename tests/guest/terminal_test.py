#!/usr/bin/env python3
"""terminal_test.py MAYFLY: `mayfly run --tty` on a pseudo-terminal: raw while it runs, resized, interrupted, and put back
however mayfly ends. Prints what is wrong, and ends with 1."""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time

DEADLINE_S = 240


class Session:
    """mayfly run --tty with `script` in the guest, on a terminal of 31 rows and 97 columns."""

    def __init__(self, mayfly, script):
        self.master, self.slave = pty.openpty()
        self.resize(31, 97)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([mayfly, "run", "--tty", "--", "sh", "-c", script], stdin=self.slave,
                                        stdout=self.slave, stderr=self.slave, preexec_fn=own_terminal)

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read_until(self, text):
        end = time.monotonic() + DEADLINE_S
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.output!r}"
            self.output += os.read(self.master, 4096)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def is_as_before(self):
        return termios.tcgetattr(self.slave) == self.before

    def end(self, status):
        got = self.process.wait(DEADLINE_S)
        assert got == status, f"exit status {got}, wanted {status}: {self.output!r}"


def resize(mayfly):
    session = Session(mayfly, "trap 'stty size; exit 6' WINCH; stty size; while :; do sleep 0.1; done")
    session.read_until(b"31 97")
    assert session.is_raw(), "the terminal is not raw while the command runs"
    session.resize(20, 60)
    session.read_until(b"20 60")
    session.end(6)
    assert session.is_as_before(), "the terminal was not put back"


def interrupt(mayfly):
    session = Session(mayfly, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done")
    session.read_until(b"ready")
    os.write(session.master, b"\x03")
    session.read_until(b"caught")
    session.end(3)


def input_and_end_of_file(mayfly):
    session = Session(mayfly, "echo ready; read line; echo got:$line:; cat; echo end")
    session.read_until(b"ready")
    os.write(session.master, b"hello\r\x04")
    session.read_until(b"got:hello:")
    session.read_until(b"end")
    session.end(0)


def killed(mayfly):
    session = Session(mayfly, "echo ready; sleep 1000")
    session.read_until(b"ready")
    assert session.is_raw(), "the terminal is not raw while the command runs"
    session.process.send_signal(signal.SIGKILL)
    session.end(-signal.SIGKILL)
    end = time.monotonic() + DEADLINE_S
    while not session.is_as_before():
        assert time.monotonic() < end, "the terminal was not put back after SIGKILL"
        time.sleep(0.05)


for test in (resize, interrupt, input_and_end_of_file, killed):
    try:
        test(sys.argv[1])
    except AssertionError as wrong:
        print(f"    {test.__name__}: {wrong}")
        sys.exit(1)
