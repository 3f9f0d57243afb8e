#!/usr/bin/env python3
"""terminal_test.py MAYFLY [MACHINE]: `mayfly run --tty` on a pseudo-terminal: raw while it runs, resized, interrupted, and put back
however mayfly ends. With a detached machine: what is for people to watch or type into. Prints what is wrong, and ends with 1."""
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
    """A command on a terminal of 31 rows and 97 columns."""

    def __init__(self, *command):
        self.master, self.slave = pty.openpty()
        self.resize(31, 97)
        self.before = termios.tcgetattr(self.slave)
        self.output = b""

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave, preexec_fn=own_terminal)

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


def run(mayfly, script):
    return Session(mayfly, "run", "--tty", "--", "sh", "-c", script)


def resize(mayfly):
    session = run(mayfly, "trap 'stty size; exit 6' WINCH; stty size; while :; do sleep 0.1; done")
    session.read_until(b"31 97")
    assert session.is_raw(), "the terminal is not raw while the command runs"
    session.resize(20, 60)
    session.read_until(b"20 60")
    session.end(6)
    assert session.is_as_before(), "the terminal was not put back"


def interrupt(mayfly):
    session = run(mayfly, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.1; done")
    session.read_until(b"ready")
    os.write(session.master, b"\x03")
    session.read_until(b"caught")
    session.end(3)


def input_and_end_of_file(mayfly):
    session = run(mayfly, "echo ready; read line; echo got:$line:; cat; echo end")
    session.read_until(b"ready")
    os.write(session.master, b"hello\r\x04")
    session.read_until(b"got:hello:")
    session.read_until(b"end")
    session.end(0)


def killed(mayfly):
    session = run(mayfly, "echo ready; sleep 1000")
    session.read_until(b"ready")
    assert session.is_raw(), "the terminal is not raw while the command runs"
    session.process.send_signal(signal.SIGKILL)
    session.end(-signal.SIGKILL)
    end = time.monotonic() + DEADLINE_S
    while not session.is_as_before():
        assert time.monotonic() < end, "the terminal was not put back after SIGKILL"
        time.sleep(0.05)


def console(mayfly, machine):
    session = Session(mayfly, "console", machine)
    session.read_until(b"Ctrl-] leaves it")
    shown = subprocess.run([mayfly, "exec", machine, "--", "sh", "-c", "while :; do echo on the terminal; sleep 1; done >/dev/ttyS0 & sleep 4; kill $!"])
    assert shown.returncode == 0
    session.read_until(b"on the terminal")
    assert session.is_raw(), "the terminal is not raw"
    os.write(session.master, b"\x03typed\x1d")  # Ctrl-C is the guest's
    session.end(0)
    assert session.is_as_before(), "the terminal was not put back"
    assert subprocess.run([mayfly, "exec", machine, "--", "true"]).returncode == 0, "the machine did not go on"


def stats(mayfly, machine):
    session = Session(mayfly, "stats", "--watch")
    for _ in range(2):  # drawn in place, again and again
        session.read_until(b"\x1b[H" + b"NAME")
        session.read_until(machine.encode())
        session.output = b""
    os.write(session.master, b"\x03")
    session.end(-signal.SIGINT)


def shell(mayfly, machine):
    session = Session(mayfly, "exec", "-it", machine, "--", "sh", "-c", "stty size; read line; echo got:$line:; exit 5")
    session.read_until(b"31 97")
    os.write(session.master, b"hello\r")
    session.read_until(b"got:hello:")
    session.end(5)
    assert session.is_as_before(), "the terminal was not put back"


for test in (resize, interrupt, input_and_end_of_file, killed) if len(sys.argv) == 2 else (console, stats, shell):
    try:
        test(*sys.argv[1:])
    except AssertionError as wrong:
        print(f"    {test.__name__}: {wrong}")
        sys.exit(1)
