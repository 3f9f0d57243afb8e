"""What every part of the lab shares: messages, places, statuses."""

import fcntl
import os
import shutil
import stat
import sys

STATUS_LOCKUP = 123
STATUS_TIMEOUT = 124
STATUS_LAB = 125
STATUS_CANNOT_RUN = 126
STATUS_NOT_FOUND = 127

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


class LabError(Exception):
    """Something a person can act on; shown as one line."""


class Stopped(Exception):
    """The lab was stopped under a command."""


class Lockup(Exception):
    """The emulated host went away under a command; the text says how."""


def keep_bytecode_out_of_the_tree():
    sys.pycache_prefix = os.path.join(cache_folder(), "bytecode")
    sys.dont_write_bytecode = False


def say(text):
    print("lab: " + text, file=sys.stderr, flush=True)


def find_tool(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def cache_folder():
    base = os.environ.get("MAYFLY_CACHE") or os.path.expanduser("~/.cache/mayfly")
    return os.path.join(os.path.abspath(base), "lab")


def state_folder():
    """Where running labs keep sockets and logs: ours alone, and short, for a socket's path has at most 107 bytes."""
    base = os.environ.get("XDG_RUNTIME_DIR") or ""
    if not os.path.isdir(base) or len(base) > 40:
        base = "/tmp"
    folder = os.path.join(base, "mayfly-lab-%d" % os.getuid())
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LabError("%s is not a folder of yours alone; remove it" % folder)
    return folder


class FileLock:
    """An exclusive lock that ends with the process that holds it."""

    def __init__(self, path, wait=True):
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(self._fd)
            self._fd = -1

    @property
    def fd(self):
        return self._fd

    @property
    def held(self):
        return self._fd >= 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def release(self):
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
